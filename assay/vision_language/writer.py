"""What scorers need of a model that writes, whichever it is and wherever it runs."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from assay.outcomes import Failed
from assay.vision_language.inquiry import Inquiry

#: A text, or why there is none.
Written = str | Failed


class Writer(Protocol):
    """Writes answers, always the likeliest token next. Called from one thread."""

    @property
    def fingerprint_parts(self) -> dict[str, str]:
        """What decides the texts, by name."""
        ...

    @property
    def deterministic(self) -> bool:
        """Whether the same inquiry always gets the same text, alone or among others."""
        ...

    def special_text(self, text: str) -> str | None:
        """What of a user's text the model would not read as text but as a mark of its own; None: nothing."""
        ...

    def input_size(self, image: NDArray[np.uint8]) -> tuple[int, int] | None:
        """(width, height) in pixels of what the model sees of an image; None where that cannot be known."""
        ...

    def write(self, inquiries: Sequence[Inquiry], max_new_tokens: int) -> list[Written]:
        """Answer the last turn of each inquiry, in order, in at most so many tokens; marks that end a text left out."""
        ...
