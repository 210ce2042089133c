"""`assay spatial`: build the x3 spatial tasks, and measure a spatial judge on them. Flags that are left out keep the
setting's default."""

from pathlib import Path
from typing import Annotated

import typer

from assay.errors import ConfigError
from assay.flags import given
from assay.hand_over import hand_over
from assay.pipeline_commands import (
    ConfigFile,
    ContinueOnError,
    Engine,
    Indices,
    NoSkipExisting,
    Overrides,
    RayAddress,
    Retries,
    Shard,
    Workers,
)

spatial_app = typer.Typer(no_args_is_help=True, help="The x3 spatial tasks: find an object, or a change.")

DataRoot = Annotated[
    Path | None, typer.Option("--data_root", help="Holds {split}/{scene}/uid_{uid} with views and masks.")
]
OutDir = Annotated[
    Path | None, typer.Option("--out_dir", help="For questions and pictures. Default: tmp/spatial_tasks_x3.")
]
Mode = Annotated[str | None, typer.Option(help="anchor or allpairs. Default: anchor.")]
AnchorK = Annotated[int | None, typer.Option("--anchor_k", help="Number of the reference view. Default: 1.")]
Alpha = Annotated[float | None, typer.Option(help="Opacity of the red mark. Default: 0.45.")]
UseDilatedMask = Annotated[
    bool | None,
    typer.Option("--use_dilated_mask/--no_use_dilated_mask", help="*_mask_dialated.png before *_mask.png. Default."),
]
EmitConcat = Annotated[
    int | None, typer.Option("--emit_concat", min=0, max=1, help="Pairs as one picture, too. Default: 1.")
]
Seed = Annotated[int | None, typer.Option(help="Of points that are drawn at random. Default: 42.")]
Compat = Annotated[
    bool | None, typer.Option("--compat", help="As the reference does it, with its defects; see docs/spatial_tasks.md.")
]


@spatial_app.callback()
def spatial() -> None:
    """The x3 spatial tasks: find an object, or a change."""


@spatial_app.command()
def build(
    overrides: Overrides = None,
    config: ConfigFile = None,
    data_root: DataRoot = None,
    out_dir: OutDir = None,
    mode: Mode = None,
    anchor_k: AnchorK = None,
    alpha: Alpha = None,
    use_dilated_mask: UseDilatedMask = None,
    emit_concat: EmitConcat = None,
    seed: Seed = None,
    compat: Compat = None,
    no_skip_existing: NoSkipExisting = False,
    engine: Engine = None,
    workers: Workers = None,
    ray_address: RayAddress = None,
    retries: Retries = None,
    continue_on_error: ContinueOnError = None,
    shard: Shard = None,
    indices: Indices = None,
) -> None:
    """Make the questions: marked and concatenated pictures, prompts, and answers from the masks."""
    flags = dict(locals())
    further, file = flags.pop("overrides") or [], flags.pop("config")
    flags["skip_existing"] = False if flags.pop("no_skip_existing") else None
    raise typer.Exit(hand_over("spatial build", file, [*given(flags), *further]))


#: Flags of the reference's script that are settings of the service here -> where they are.
MOVED = {
    "--model_name_or_path": "scorer.backend.model of its configuration",
    "--chat_template": "scorer.backend.chat_template of its configuration",
    "--image_aspect_ratio": "the model's own image processor decides",
    "--max_new_tokens": "scorer.pointing.max_new_tokens of its configuration",
}


def _refuse_moved(value: str | None, flag: str) -> None:
    """Raises: ConfigError: it was given."""
    if value is not None:
        raise ConfigError(
            f"{flag} {value}: the spatial service has the model now ({MOVED[flag]}); start it with `assay serve "
            "spatial` and name it with --target"
        )


DataJson = Annotated[Path | None, typer.Option("--data_json", help="Questions, as `assay spatial build` makes them.")]
OutputJson = Annotated[Path | None, typer.Option("--output_json", help="Numbers and answers; the page lies beside it.")]
ImageFolder = Annotated[Path | None, typer.Option("--image_folder", help="Relative paths are relative to it.")]
Limit = Annotated[int | None, typer.Option(help="Only the first so many questions; -1 is all. Default: -1.")]
Target = Annotated[list[str] | None, typer.Option(help="A spatial service's address; may be given again.")]
BatchSize = Annotated[int | None, typer.Option("--batch_size", help="Questions of one call. Default: 16.")]


@spatial_app.command(name="eval")
def evaluate(
    overrides: Overrides = None,
    config: ConfigFile = None,
    data_json: DataJson = None,
    output_json: OutputJson = None,
    image_folder: ImageFolder = None,
    limit: Limit = None,
    target: Target = None,
    batch_size: BatchSize = None,
    compat: Compat = None,
    no_skip_existing: NoSkipExisting = False,
    engine: Engine = None,
    workers: Workers = None,
    ray_address: RayAddress = None,
    retries: Retries = None,
    continue_on_error: ContinueOnError = None,
    shard: Shard = None,
    indices: Indices = None,
    model_name_or_path: Annotated[str | None, typer.Option("--model_name_or_path", hidden=True)] = None,
    chat_template: Annotated[str | None, typer.Option("--chat_template", hidden=True)] = None,
    image_aspect_ratio: Annotated[str | None, typer.Option("--image_aspect_ratio", hidden=True)] = None,
    max_new_tokens: Annotated[str | None, typer.Option("--max_new_tokens", hidden=True)] = None,
) -> None:
    """Have the questions of a file answered by a spatial service, and measure the answers."""
    flags = dict(locals())
    for flag in MOVED:
        _refuse_moved(flags.pop(flag.removeprefix("--")), flag)
    further, file = flags.pop("overrides") or [], flags.pop("config")
    flags["skip_existing"] = False if flags.pop("no_skip_existing") else None
    flags["targets"] = flags.pop("target")
    raise typer.Exit(hand_over("spatial eval", file, [*given(flags), *further]))


@spatial_app.command(name="zero-shot")
def zero_shot(
    overrides: Overrides = None,
    config: ConfigFile = None,
    data_root: DataRoot = None,
    out_dir: OutDir = None,
    output_dir: Annotated[
        Path | None, typer.Option("--output_dir", help="For the evaluations. Default: runs/eval_spatial_x3.")
    ] = None,
    limit: Limit = None,
    target: Target = None,
    batch_size: BatchSize = None,
    compat: Compat = None,
) -> None:
    """Build the questions unless they are there, evaluate all four kinds, and print one table."""
    flags = dict(locals())
    further, file = flags.pop("overrides") or [], flags.pop("config")
    flags["targets"] = flags.pop("target")
    raise typer.Exit(hand_over("spatial zero-shot", file, [*given(flags), *further]))


@spatial_app.command()
def check(
    overrides: Overrides = None,
    config: Annotated[Path | None, typer.Option(help="Of the training. Default: the miniature's.")] = None,
) -> None:
    """Make the first batch of `assay train spatial` without loading the model, and say what is in it."""
    raise typer.Exit(hand_over("spatial check", config, overrides or []))
