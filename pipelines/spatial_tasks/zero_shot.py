"""`assay spatial zero-shot`: build the questions unless they are there, evaluate all four kinds, and put the numbers
side by side."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from assay.config import load_config
from assay.errors import ConfigError
from assay.files import write_whole
from pipelines.spatial_tasks.building.command import build
from pipelines.spatial_tasks.building.derivation import FILE as DERIVATION
from pipelines.spatial_tasks.building.derivation import load_derivation
from pipelines.spatial_tasks.building.settings import BuildSettings
from pipelines.spatial_tasks.evaluation.command import evaluate
from pipelines.spatial_tasks.evaluation.settings import EvalSettings, JudgeSettings

#: What is asked, and the file that holds it.
TASKS = {
    "T1 two pictures": "t1_val_multi",
    "T1 concatenated": "t1_val_concat",
    "T2A missing": "t2a_val_multi",
    "T2B difference": "t2b_val_multi",
}
COLUMNS = {
    "Hit@Mask": "hit_at_mask",
    "NOT_VISIBLE acc": "not_visible_accuracy",
    "mean L2": "mean_l2_error",
    "Success@0.02": "success_002",
    "Success@0.05": "success_005",
    "Success@0.10": "success_010",
}


class ZeroShotSettings(JudgeSettings):
    """What to build, who answers, and where to write.

    Args:
        data_root: of the data; not needed where the questions are there already.
        out_dir: of the questions.
        output_dir: for the four evaluations and the table, `zero_shot.md`.
        limit: only the first so many questions of each file; -1 is all.
        alpha, anchor_k, mode, use_dilated_mask, seed: of the build; see `building.settings`.
    """

    data_root: Path | None = None
    out_dir: Path = Path("tmp/spatial_tasks_x3")
    output_dir: Path = Path("runs/eval_spatial_x3")
    limit: int = Field(default=-1, ge=-1)
    mode: Literal["anchor", "allpairs"] = "anchor"
    anchor_k: int = 1
    alpha: float = 0.45
    use_dilated_mask: bool = True
    seed: int = 42


def spatial_zero_shot(config: Path | None, overrides: Sequence[str]) -> int:
    """Run `assay spatial zero-shot`; 0 if every question has a score, 1 if some have none or some files gave none.

    Raises:
        AssayError: settings are wrong, no service answers, or a run cannot go on.
    """
    settings = load_config(ZeroShotSettings, config, overrides)
    building = _building(settings)
    codes: list[int] = []
    if not all((settings.out_dir / f"{name}.json").exists() for name in TASKS.values()):
        built = build(_checked(building, settings))
        if not built.complete:
            print("assay: not all scenes were built, so that nothing is evaluated; see above", file=sys.stderr)
            return 1
        codes.append(1 if built.problems else 0)
    else:
        _check_built(settings.out_dir, building)
    found = {}
    for title, name in TASKS.items():
        print(f"\n{title}: {name}")
        codes.append(evaluate(_evaluation(settings, name)))
        found[title] = json.loads((settings.output_dir / f"{name}.json").read_text())["metrics"]
    text = table(found)
    write_whole(settings.output_dir / "zero_shot.md", text)
    print(f"\n{text}")
    return max(codes)


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a row a task. What no question of the task can tell is a dash."""
    lines = [f"| task | n | {' | '.join(COLUMNS)} |", f"|---|{'---|' * (len(COLUMNS) + 1)}"]
    for title, metrics in found.items():
        cells = [_cell(metrics, key) for key in COLUMNS.values()]
        lines.append(f"| {title} | {metrics['total']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(metrics: Mapping[str, Any], key: str) -> str:
    of = metrics["gt_not_visible" if key == "not_visible_accuracy" else "visible_gt"]
    return f"{metrics[key]:.3f}" if of and metrics[key] is not None else "-"


def _building(settings: ZeroShotSettings) -> dict[str, Any]:
    return {**settings.model_dump(include=set(BuildSettings.model_fields)), "emit_concat": True}


def _checked(building: dict[str, Any], settings: ZeroShotSettings) -> BuildSettings:
    if settings.data_root is None:
        raise ConfigError(
            f"out_dir = {settings.out_dir} lacks questions, and data_root is not given; allowed: a folder that "
            "`assay spatial build` wrote, or data_root to build them from"
        )
    return BuildSettings.model_validate(building)


def _check_built(folder: Path, building: Mapping[str, Any]) -> None:
    """That the questions which are there are those that would be built."""
    if not (folder / DERIVATION).is_file():  # made elsewhere
        return
    built = load_derivation(folder).model_dump()
    for field in sorted(built.keys() & building.keys()):
        if building[field] is not None and built[field] != building[field]:
            raise ConfigError(
                f"out_dir = {folder} was built with {field} = {built[field]!r}, not {building[field]!r}: choose "
                "another out_dir, or delete that folder"
            )


def _evaluation(settings: ZeroShotSettings, name: str) -> EvalSettings:
    values = settings.model_dump(include=set(EvalSettings.model_fields))
    files = {"data_json": settings.out_dir / f"{name}.json", "output_json": settings.output_dir / f"{name}.json"}
    return EvalSettings.model_validate({**values, **files})
