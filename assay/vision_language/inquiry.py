"""Images and the questions about them, as the conversation that a model gets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.questions import IMAGE, content_parts

_PLACE: dict[str, Any] = {"type": "image"}


@dataclass(frozen=True)
class Inquiry:
    """Images, and what is asked about them, turn by turn.

    Args:
        images: each (height, width, 3) uint8 RGB.
        turns: what the user says; the first holds `<image>` once for each image, in their order, the others not at
            all. To all but the last the model is taken to have answered `yes`.

    Raises:
        ValueError: there are not as many marks as images.
    """

    images: tuple[NDArray[np.uint8], ...]
    turns: tuple[str, ...]

    def __post_init__(self) -> None:
        marks = [turn.count(IMAGE) for turn in self.turns]
        if marks[0] != len(self.images) or any(marks[1:]):
            raise ValueError(f"{IMAGE} stands {marks} times in the turns; there are {len(self.images)} images")

    def messages(self, image_parts: Sequence[dict[str, Any]], affirmation: str, num_turns: int) -> list[dict[str, Any]]:
        """The conversation up to the answer to turn `num_turns`, as chat templates and chat completions take it.

        Args:
            image_parts: what stands in the content for each image.
            affirmation: what the model is taken to have said.
        """
        waiting = iter(image_parts)
        asked = [next(waiting) if part is _PLACE else part for part in content_parts(self.turns[0], _PLACE)]
        messages: list[dict[str, Any]] = [{"role": "user", "content": asked}]
        for turn in self.turns[1:num_turns]:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": affirmation}]})
            messages.append({"role": "user", "content": [{"type": "text", "text": turn}]})
        return messages
