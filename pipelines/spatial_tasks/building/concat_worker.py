"""Puts pairs of an object's views side by side: `uid_{uid}/01{frame}_to_02{frame}_concat.jpg`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.engine.stage import Workplace
from pipelines.engine.unit import Unit
from pipelines.spatial_tasks.building import mark_worker
from pipelines.spatial_tasks.building.view_facts import ViewFacts, load_facts, pairs_of
from pipelines.spatial_tasks.masks import read_picture
from pipelines.spatial_tasks.points import SideBySide

STAGE = "concat"


@dataclass(frozen=True)
class JpegOptions:
    """How the pictures are stored; as Pillow names it: subsampling 0 is 4:4:4, 2 is 4:2:0."""

    quality: int
    subsampling: int


FINE = JpegOptions(quality=95, subsampling=0)
#: What Pillow takes if nothing is said.
PILLOWS_OWN = JpegOptions(quality=75, subsampling=2)


class ConcatWorker:
    """Has no model."""

    def run(self, unit: Unit, workplace: Workplace) -> None:
        options = PILLOWS_OWN if unit.inputs["compat"] else FINE
        for uid, facts in load_facts(workplace.upstream[mark_worker.STAGE]).items():
            folder = workplace.folder / f"uid_{uid}"
            folder.mkdir()
            for reference, query in pairs_of(facts.views, unit.inputs["mode"], unit.inputs["anchor_k"]):
                if reference.point is not None:
                    path = folder / concat_name(reference, query)
                    _side_by_side(reference, query).save(path, quality=options.quality, subsampling=options.subsampling)


def concat_name(reference: ViewFacts, query: ViewFacts) -> str:
    """File name of a pair."""
    return f"{reference.number:02d}{reference.frame}_to_{query.number:02d}{query.frame}_concat.jpg"


def _side_by_side(reference: ViewFacts, query: ViewFacts) -> Image.Image:
    frame = SideBySide(reference.size, query.size)
    canvas = np.zeros((frame.whole.height, frame.whole.width, 3), dtype=np.uint8)
    canvas[: reference.height, : reference.width] = read_picture(Path(reference.original))
    canvas[: query.height, reference.width :] = read_picture(Path(query.original))
    return Image.fromarray(canvas)


def load_concat_worker(device: str) -> ConcatWorker:
    return ConcatWorker()
