"""The commands that run batch jobs and tell how far they are. Flags that are left out keep the setting's default."""

from pathlib import Path
from typing import Annotated

import typer

from assay.flags import given
from assay.hand_over import hand_over

status_app = typer.Typer(no_args_is_help=True, help="How far batch jobs are.")
evaluate_app = typer.Typer(no_args_is_help=True, help="Evaluate generators, and images already made.")

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[FIELD=VALUE]...", help="Further settings.")]


# Flags of every batch job; see `pipelines.engine.settings`.
ConfigFile = Annotated[Path | None, typer.Option(help="YAML file with any of these settings.")]
NumGpus = Annotated[
    int | None, typer.Option("--num_gpus", help="Of those CUDA_VISIBLE_DEVICES shows; -1 is all. Default: -1.")
]
NoSkipExisting = Annotated[bool, typer.Option("--no_skip_existing", help="Make again what is there already.")]
Engine = Annotated[str | None, typer.Option(help="auto, in_process or ray. Default: auto.")]
Workers = Annotated[int | None, typer.Option(help="Processes of Ray where there is no GPU. Default: 1.")]
RayAddress = Annotated[str | None, typer.Option("--ray_address", help="Of a running cluster.")]
Retries = Annotated[int | None, typer.Option(help="Further attempts after an error that may pass. Default: 2.")]
ContinueOnError = Annotated[
    bool | None, typer.Option("--continue_on_error/--fail_fast", help="After one has failed. Default: continue.")
]
Shard = Annotated[str | None, typer.Option(help="i/n: the i-th of n parts, i from 0.")]
Indices = Annotated[str | None, typer.Option(help="Positions in the file, e.g. '0 3 10-20'.")]
# Of `generate` alone.
InstructionsRoot = Annotated[
    Path | None,
    typer.Option("--predicted_instructions_root", help="Holds NAME/results.jsonl. Default: predicted_instructions."),
]
Score = Annotated[
    str | None, typer.Option(help="spatial: have what records tell in `relation` judged, before and after.")
]
SpatialTarget = Annotated[
    list[str] | None, typer.Option(help="Spatial service's address; may be given again. Default: localhost:50055.")
]


def generate(
    config: ConfigFile = None,
    planning_model: Annotated[
        str | None, typer.Option("--planning_model", help="Folder below --predicted_instructions_root.")
    ] = None,
    all_planning_models: Annotated[
        bool | None, typer.Option("--all_planning_models", help="Every folder there, instead of one.")
    ] = None,
    flux_ckpt: Annotated[
        str | None,
        typer.Option("--flux_ckpt", help="FLUX.2 klein: folder or hub name. Default: checkpoints/flux2-klein-4B."),
    ] = None,
    predicted_instructions_root: InstructionsRoot = None,
    output_root: Annotated[Path | None, typer.Option("--output_root", help="Default: generated_images.")] = None,
    num_inference_steps: Annotated[
        int | None, typer.Option("--num_inference_steps", help="Denoising steps. Default: 28.")
    ] = None,
    height: Annotated[int | None, typer.Option(help="In pixels. Default: the first reference's.")] = None,
    width: Annotated[int | None, typer.Option(help="In pixels. Default: the first reference's.")] = None,
    num_gpus: NumGpus = None,
    no_skip_existing: NoSkipExisting = False,
    max_samples: Annotated[
        int | None, typer.Option("--max_samples", help="Only the first of each planning model; -1 is all. Default: -1.")
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option("--data_root", help="Image paths are relative to it. Default: the working directory.")
    ] = None,
    guidance_scale: Annotated[
        float | None, typer.Option("--guidance_scale", help="Distilled checkpoints ignore it. Default: 4.0.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Another number gives other images. Default: 0.")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch_size", help="Instructions of a sample rendered in one pass. Default: 8.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16. Default: auto.")] = None,
    score: Score = None,
    target: SpatialTarget = None,
    engine: Engine = None,
    workers: Workers = None,
    ray_address: RayAddress = None,
    retries: Retries = None,
    continue_on_error: ContinueOnError = None,
    shard: Shard = None,
    indices: Indices = None,
) -> None:
    """Make an image for each instruction that planning models wrote, with FLUX.2 klein; --score has them judged."""
    flags = dict(locals())
    flags["skip_existing"] = False if flags.pop("no_skip_existing") else None
    flags["targets"] = flags.pop("target")
    if planning_model is not None and all_planning_models is None:
        flags["all_planning_models"] = False  # of the configuration file, which the command line overrules
    further = ["planning_model=null"] if all_planning_models and planning_model is None else []
    raise typer.Exit(hand_over("generate", flags.pop("config"), [*given(flags), *further]))


def plan(
    overrides: Overrides = None,
    config: ConfigFile = None,
    questions: Annotated[Path | None, typer.Option(help="A JSONL file, or a folder with a questions.jsonl.")] = None,
    data_root: Annotated[
        Path | None, typer.Option("--data_root", help="Image paths are relative to it. Default: the questions' folder.")
    ] = None,
    output_root: Annotated[
        Path | None, typer.Option("--output_root", help="For NAME/results.jsonl. Default: predicted_instructions.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Default: the last part of the model's name.")] = None,
    max_samples: Annotated[
        int | None, typer.Option("--max_samples", help="Only the first questions; -1 is all. Default: -1.")
    ] = None,
    num_gpus: NumGpus = None,
    no_skip_existing: NoSkipExisting = False,
    engine: Engine = None,
    workers: Workers = None,
    ray_address: RayAddress = None,
    retries: Retries = None,
    continue_on_error: ContinueOnError = None,
    shard: Shard = None,
    indices: Indices = None,
) -> None:
    """Have a vision-language model write what `assay generate` is to draw for questions with images."""
    flags = dict(locals())
    further, file = flags.pop("overrides") or [], flags.pop("config")
    flags["skip_existing"] = False if flags.pop("no_skip_existing") else None
    raise typer.Exit(hand_over("plan", file, [*given(flags), *further]))


def best_of_n(
    overrides: Overrides = None,
    config: ConfigFile = None,
    prompts_file: Annotated[Path | None, typer.Option("--prompts_file", help="A prompt a line.")] = None,
    metadata_file: Annotated[
        Path | None, typer.Option("--metadata_file", help="GenEval's tasks, a JSON object a line.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Show-o, or a diffusers text-to-image model.")] = None,
    outdir: Annotated[Path | None, typer.Option(help="Default: results.")] = None,
    reward_model: Annotated[
        str | None, typer.Option("--reward_model", help="Who chooses: orm_zs, orm_ft, parm or none. Default: none.")
    ] = None,
    dpo_model: Annotated[
        str | None,
        typer.Option("--dpo_model", help="What draws instead: dpo, dpo_iter, dpo_iter_parm_guide, or another name."),
    ] = None,
    search_num: Annotated[int | None, typer.Option("--search_num", help="Candidates an image. Default: 20.")] = None,
    eval_num: Annotated[int | None, typer.Option("--eval_num", help="Images a prompt. Default: 4.")] = None,
    generation_timesteps: Annotated[
        int | None, typer.Option("--generation_timesteps", help="Steps of the sampler. Default: the model's own.")
    ] = None,
    guidance_scale: Annotated[float | None, typer.Option("--guidance_scale", help="Default: the model's own.")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch_size", help="Candidates drawn in one pass. Default: 20.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Another number gives other images. Default: 1234.")] = None,
    num_gpus: NumGpus = None,
    no_skip_existing: NoSkipExisting = False,
    engine: Engine = None,
    workers: Workers = None,
    ray_address: RayAddress = None,
    retries: Retries = None,
    continue_on_error: ContinueOnError = None,
    shard: Shard = None,
    indices: Indices = None,
) -> None:
    """Draw N candidates for each image, and keep the one that a verifier takes for the best."""
    flags = dict(locals())
    further, file = flags.pop("overrides") or [], flags.pop("config")
    flags["skip_existing"] = False if flags.pop("no_skip_existing") else None
    raise typer.Exit(hand_over("best-of-n", file, [*given(flags), *further]))


def verifier_data(
    overrides: Overrides = None,
    config: ConfigFile = None,
    model: Annotated[str | None, typer.Option(help="Show-o, or a diffusers text-to-image model.")] = None,
    lora: Annotated[str | None, typer.Option(help="A LoRA for it: its folder, or a training run's.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="GenEval's tasks, a JSON object a line.")] = None,
    exclude: Annotated[
        list[Path] | None, typer.Option(help="Such a file whose prompts are not drawn; may be given again.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Default: verifier_data.")] = None,
    num_candidates: Annotated[
        int | None, typer.Option("--num_candidates", help="Pictures of each prompt. Default: 50.")
    ] = None,
    num_steps: Annotated[
        int | None, typer.Option("--num_steps", help="Of the sampler. Default: the model's own.")
    ] = None,
    target: Annotated[list[str] | None, typer.Option(help="GenEval service's address; may be given again.")] = None,
    scorer: Annotated[str | None, typer.Option(help="Which of its scorers labels. Default: geneval.")] = None,
    seed: Annotated[int | None, typer.Option(help="Another number gives other pictures. Default: 1234.")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch_size", help="Candidates drawn in one pass. Default: 25.")
    ] = None,
    num_gpus: NumGpus = None,
    no_skip_existing: NoSkipExisting = False,
    engine: Engine = None,
    workers: Workers = None,
    ray_address: RayAddress = None,
    retries: Retries = None,
    continue_on_error: ContinueOnError = None,
    shard: Shard = None,
    indices: Indices = None,
) -> None:
    """Draw pictures, have them labelled by a GenEval service, and write what verifiers and DPO learn from."""
    flags = dict(locals())
    further, file = flags.pop("overrides") or [], flags.pop("config")
    flags["skip_existing"] = False if flags.pop("no_skip_existing") else None
    flags["targets"] = flags.pop("target")
    flags["exclude"] = [str(path) for path in exclude] if exclude else None
    raise typer.Exit(hand_over("data verifier", file, [*given(flags), *further]))


@evaluate_app.callback()
def evaluate() -> None:
    """Evaluate generators, and images already made."""


@evaluate_app.command()
def geneval(
    overrides: Overrides = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with any of these settings.")] = None,
    model: Annotated[str | None, typer.Option(help="A diffusers text-to-image model: folder or hub name.")] = None,
    lora: Annotated[str | None, typer.Option(help="A LoRA for it: its folder, or a training run's.")] = None,
    images: Annotated[Path | None, typer.Option(help="Instead: <index>/samples/*.png, <index>/metadata.jsonl.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="JSONL in GenEval's form. Default: the official 553.")] = None,
    num_images: Annotated[int | None, typer.Option("--num_images", help="For each prompt. Default: 4.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for images, scores and report.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="A service's address; may be given again.")] = None,
    against: Annotated[Path | None, typer.Option(help="Folder of an earlier evaluation to compare with.")] = None,
) -> None:
    """GenEval: make images for its prompts (or take those there are), have them scored, and give the official table."""
    flags = dict(locals())
    further, file = flags.pop("overrides") or [], flags.pop("config")
    flags["targets"] = flags.pop("target")
    raise typer.Exit(hand_over("evaluate geneval", file, [*given(flags), *further]))


@status_app.command()
def status(
    folder: Annotated[Path, typer.Argument(help="Output folder of a batch job.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how many units are done, have failed, are pending, and why those that failed did. Exit code 1 if any did."""
    raise typer.Exit(hand_over("pipeline status", folder, as_json))


@status_app.command()
def summary(folder: Annotated[Path, typer.Argument(help="Output folder of a batch job.")]) -> None:
    """Derive the job's summary files anew from what is there."""
    raise typer.Exit(hand_over("pipeline summary", folder))
