"""The `assay` command. Thin: each command reads its flags and hands over; what it needs is imported only then.

Exit codes: 0 done; 1 a service or a run failed, or an image has no score; 2 wrong flags or settings.
Commands that call a service read its token from ASSAY_TOKEN or from the file that ASSAY_TOKEN_FILE names.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from assay import bench_command, pipeline_commands, spatial_commands
from assay.client_token import read_token
from assay.errors import AssayError, ConfigError, InvalidRequestError
from assay.flags import given
from assay.hand_over import hand_over

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Reward services for image generation, and training on them."
)
app.command()(bench_command.bench)
app.command()(pipeline_commands.plan)
app.command()(pipeline_commands.generate)
app.command(name="best-of-n")(pipeline_commands.best_of_n)
app.add_typer(pipeline_commands.status_app, name="pipeline")
app.add_typer(pipeline_commands.evaluate_app, name="evaluate")
app.add_typer(spatial_commands.spatial_app, name="spatial")
data_app = typer.Typer(no_args_is_help=True, help="Make data to train and evaluate on.")
data_app.command(name="verifier")(pipeline_commands.verifier_data)
app.add_typer(data_app, name="data")

#: What `assay train` does other than to read the configuration of a generator's training. A file of such a name: ./orm
TRAINING_VERBS = ("orm", "parm", "spatial", "dpo")

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[FIELD=VALUE]...", help="Settings, dots for nesting.")]


@app.command()
def serve(
    name: Annotated[str, typer.Argument(help="Name of the service, e.g. geneval.")],
    overrides: Overrides = None,
    config: Annotated[Path | None, typer.Option(help="YAML file, instead of the service's own.")] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow a non-loopback host with neither token nor TLS.")
    ] = False,
) -> None:
    """Host a reward service until SIGTERM or Ctrl-C."""
    from assay.serve_command import run_service

    extra = ["serve.insecure=true"] if insecure else []
    raise typer.Exit(run_service(name, config, [*(overrides or []), *extra]))


@app.command()
def score(
    images: Annotated[list[Path], typer.Argument(help="Image files: PNG, WebP or JPEG.")],
    prompt: Annotated[str | None, typer.Option(help="The prompt the images were made from.")] = None,
    class_name: Annotated[str | None, typer.Option("--class", help="Object class to look for, e.g. apple.")] = None,
    count: Annotated[int | None, typer.Option(help="How many of them there should be.")] = None,
    color: Annotated[str | None, typer.Option(help="Which colour they should have.")] = None,
    relation: Annotated[
        tuple[str, str, str] | None,
        typer.Option(metavar="SUBJECT RELATION REFERENCE", help="How two objects should stand: cup 'left of' dog."),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="Of the last image: where what is to be pointed at lies. The images are views of one scene."),
    ] = None,
    question: Annotated[str | None, typer.Option(help="Asked in place of the scorer's own.")] = None,
    scorer: Annotated[str | None, typer.Option(help="Default: the first that judges such a task.")] = None,
    target: Annotated[str, typer.Option(help="Address of the service.")] = "localhost:50051",
    token: Annotated[str | None, typer.Option(envvar="ASSAY_TOKEN", help="Bearer token.")] = None,
    tls_ca: Annotated[Path | None, typer.Option(help="PEM file of the authority; switches TLS on.")] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM file: one's own certificate.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file: the key that goes with it.")] = None,
    deadline_s: Annotated[float, typer.Option(help="Seconds to wait for the scores.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score image files with a running service, and show why."""
    from assay import score_command
    from assay.outcomes import Failed

    wanted = score_command.Wanted(prompt, class_name, count, color, relation, mask, question)
    task = wanted.task()
    groups = score_command.group_images(images, mask)
    name, outcomes = score_command.score_files(
        groups,
        task,
        prompt=wanted.prompt_text(),
        target=target,
        scorer=scorer,
        token=token,
        tls_files={"tls_ca": tls_ca, "tls_certificate": tls_certificate, "tls_key": tls_key},
        deadline_s=deadline_s,
    )
    show = score_command.as_json if as_json else score_command.as_text
    typer.echo(show(groups, name, outcomes))
    if any(isinstance(outcome, Failed) for outcome in outcomes):
        raise typer.Exit(1)


@app.command()
def train(
    what: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG | VERB [CONFIG]",
            help="YAML file, e.g. configs/train/miniature_counting.yaml; or orm, parm, spatial: fine-tune a judge; or "
            "dpo: preferences, of Show-o by default.",
        ),
    ],
    overrides: Overrides = None,
) -> None:
    """Train an image generator on rewards or preferences; or fine-tune a verifier."""
    settings = list(overrides or [])
    if what not in TRAINING_VERBS:
        raise typer.Exit(hand_over("train", Path(what), settings))
    config = Path(settings.pop(0)) if settings and "=" not in settings[0] else None
    raise typer.Exit(hand_over(f"train {what}", config, settings))


@app.command()
def infer(
    lora_path: Annotated[
        str, typer.Option("--lora_path", help="Of a LoRA, a training run, or one of its checkpoints.")
    ],
    overrides: Overrides = None,
    model_name: Annotated[
        str | None, typer.Option("--model_name", help="Default: stabilityai/stable-diffusion-3.5-large.")
    ] = None,
    custom_prompt: Annotated[
        str | None, typer.Option("--custom_prompt", help="Instead of one drawn from test tasks.")
    ] = None,
    num_images: Annotated[int | None, typer.Option("--num_images", help="Of each model. Default: 4.")] = None,
    height: Annotated[int | None, typer.Option(help="In pixels. Default: 512.")] = None,
    width: Annotated[int | None, typer.Option(help="In pixels. Default: 512.")] = None,
    num_steps: Annotated[int | None, typer.Option("--num_steps", help="Denoising steps. Default: 20.")] = None,
    guidance_scale: Annotated[float | None, typer.Option("--guidance_scale", help="Default: 7.5.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of noise and prompt. Default: 42.")] = None,
    output_dir: Annotated[Path | None, typer.Option("--output_dir", help="Default: demo_outputs.")] = None,
    device_id: Annotated[int | None, typer.Option("--device_id", help="Number of the GPU. Default: 0.")] = None,
    target: Annotated[str | None, typer.Option(help="Address of a reward service that scores the pictures.")] = None,
) -> None:
    """Make pictures with a LoRA and without, from the same noise, and put them side by side."""
    flags = dict(locals())
    further = flags.pop("overrides") or []
    raise typer.Exit(hand_over("infer", None, [*given(flags), *further]))


@data_app.callback()
def data() -> None:
    """Make data to train and evaluate on."""


@data_app.command()
def counting(
    output: Annotated[Path, typer.Option(help="Folder for train.jsonl and test.jsonl.")],
    largest: Annotated[int, typer.Option("--range", help="The largest count: 5, 10, 20 or 40.")] = 10,
    classes: Annotated[str, typer.Option(help="coco80, or names with commas between.")] = "coco80",
    seed: Annotated[int, typer.Option(help="Of the shuffle and the split.")] = 0,
) -> None:
    """Prompts that ask for exact numbers of objects, in GenEval's form, split into train and test."""
    raise typer.Exit(hand_over("data counting", output, largest, classes, seed))


def _check_token_file() -> None:
    """Containers get secrets as files. Whatever calls services, worker processes in other folders too, finds them.

    Raises:
        ConfigError: the file cannot be read, or holds no token.
    """
    path = os.environ.get("ASSAY_TOKEN_FILE")
    if path and not os.environ.get("ASSAY_TOKEN"):
        read_token(Path(path), "ASSAY_TOKEN_FILE")
        os.environ["ASSAY_TOKEN_FILE"] = str(Path(path).absolute())


def main() -> None:
    """Run the command; what Assay itself raises becomes one clear message and an exit code."""
    try:
        _check_token_file()
        app()
    except AssayError as error:
        print(f"assay: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError | InvalidRequestError) else 1)


if __name__ == "__main__":
    main()
