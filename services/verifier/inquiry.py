"""An image and the questions about it, as the conversation that a judge gets."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.questions import content_parts


@dataclass(frozen=True)
class Inquiry:
    """An image, and what is asked about it, turn by turn.

    Args:
        image: (height, width, 3) uint8 RGB.
        turns: what the user says; the first holds `<image>`, once. To all but the last the judge is taken to have
            answered `yes`.
    """

    image: NDArray[np.uint8]
    turns: tuple[str, ...]

    def messages(self, image_part: dict[str, Any], affirmation: str, num_turns: int) -> list[dict[str, Any]]:
        """The conversation up to the answer to turn `num_turns`, as chat templates and chat completions take it.

        Args:
            image_part: what stands in the content for the image.
            affirmation: what the judge is taken to have said.
        """
        messages: list[dict[str, Any]] = [{"role": "user", "content": content_parts(self.turns[0], image_part)}]
        for turn in self.turns[1:num_turns]:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": affirmation}]})
            messages.append({"role": "user", "content": [{"type": "text", "text": turn}]})
        return messages
