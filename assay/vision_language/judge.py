"""What the scorers need of a judge, whichever model it is and wherever it runs."""

from collections.abc import Sequence
from typing import Protocol

from assay.outcomes import Failed
from assay.vision_language.answers import Answer
from assay.vision_language.inquiry import Inquiry

#: One answer a turn, or why there is none.
Answers = tuple[Answer, ...] | Failed


class Judge(Protocol):
    """Answers questions about images. Called from one thread."""

    @property
    def fingerprint_parts(self) -> dict[str, str]:
        """What decides the answers, by name."""
        ...

    @property
    def deterministic(self) -> bool:
        """Whether the same inquiry always gets the same answers, alone or among others."""
        ...

    def special_text(self, text: str) -> str | None:
        """What of a user's text the model would not read as text but as a mark of its own; None: nothing."""
        ...

    def ask(self, inquiries: Sequence[Inquiry]) -> list[Answers]:
        """Ask. All inquiries have the same number of turns; one result each, in order."""
        ...
