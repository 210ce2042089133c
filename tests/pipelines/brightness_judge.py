"""A scorer that speaks the spatial service's contract for relations; nothing is recognised in a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from assay.outcomes import Evidence, Failed, Outcome, Scored
from assay.serving.scorer import Sample, ScorerInfo
from assay.tasks import SpatialTask

LEFT = {"subject": "apple", "relation": "left of", "reference": "cup"}
NEAR = {"subject": "cup", "relation": "near", "reference": "kite"}


class Brightness:
    """Its value is how bright a picture is, less a tenth for `near`."""

    def __init__(self, fingerprint: str = "1") -> None:
        self.info = ScorerInfo("relation", fingerprint * 16, (0.0, 1.0), True, ("SpatialTask",))
        self.asked: list[tuple[str, str]] = []
        self.abstains = False

    def warm_up_sample(self) -> Sample:
        return Sample("warm-up", (np.zeros((8, 8, 3), np.uint8),), "", SpatialTask(**LEFT))

    def score(self, batch: Sequence[Sample]) -> list[Outcome]:
        return [self._judge(sample) for sample in batch]

    def _judge(self, sample: Sample) -> Outcome:
        task = sample.task
        assert isinstance(task, SpatialTask)
        if sample.id != "warm-up":
            self.asked.append((sample.id, task.relation))
        if task.relation == "astride":
            return Failed("INVALID_ARGUMENT", "UNKNOWN_RELATION", "task.relation is 'astride'")
        if self.abstains:
            return Failed("FAILED_PRECONDITION", "JUDGE_ABSTAINED", "the detector found 0 of 'cup'")
        value = brightness(sample.images[0]) - 0.1 * (task.relation == "near")
        return Scored(value, {"vlm_p": value}, Evidence(reason="as bright as that"))


def brightness(picture: Path | np.ndarray) -> float:
    pixels = np.asarray(Image.open(picture).convert("RGB")) if isinstance(picture, Path) else picture
    return float(pixels.mean() / 255)
