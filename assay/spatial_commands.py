"""`assay spatial`: build the x3 spatial tasks, and measure a spatial judge on them. Flags that are left out keep the
setting's default."""

from pathlib import Path
from typing import Annotated

import typer

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
