"""The arguments of `assay spatial build`."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from assay.config import ConfigModel
from pipelines.engine.settings import BatchSettings


class TaskSettings(ConfigModel):
    """What decides the questions and their pictures.

    Args:
        data_root: holds {split}/{scene}/uid_{uid}, with split train, and validation or val.
        mode: `anchor` pairs one view with all others; `allpairs` pairs each with each.
        anchor_k: number of that view.
        alpha: opacity of the red mark on the reference picture.
        use_dilated_mask: take `_mask_dialated.png` where there is one; else `_mask.png`.
        emit_concat: also make pairs as one picture, side by side.
        seed: of the points that are drawn at random where the middle of a mask's box lies beside the mask.
        compat: as the reference has it: one generator for all random points of a run, answers of concatenated pairs in
            the frame of the query picture though the question asks for that of the whole, JPEG at Pillow's defaults,
            references that do not show the object for pairs of two pictures, and no keys that it does not have.
    """

    data_root: Path
    mode: Literal["anchor", "allpairs"] = "anchor"
    anchor_k: int = Field(default=1, ge=1, le=5)
    alpha: float = Field(default=0.45, ge=0, le=1)
    use_dilated_mask: bool = True
    emit_concat: bool = True
    seed: int = 42
    compat: bool = False


class BuildSettings(TaskSettings, BatchSettings):
    """With where to write.

    Args:
        out_dir: for the questions (`t1_val_multi.json`, ...), the marked and the concatenated pictures, and the report.
    """

    out_dir: Path = Path("tmp/spatial_tasks_x3")
