"""Texts of callers that become part of a question: none that is empty, endless, or not read as text."""

from collections.abc import Callable

from assay.outcomes import Failed
from assay.questions import IMAGE

MAX_TEXT_CHARACTERS = 8000


class RefusedError(Exception):
    """A sample that cannot be asked about. `reason` is the UPPER_SNAKE reason given to the caller."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def failed(self) -> Failed:
        """The outcome of the sample."""
        return Failed("INVALID_ARGUMENT", self.reason, str(self))


def check_text(field: str, text: str, special_text: Callable[[str], str | None], allowed: str) -> None:
    """Refuse a text that cannot be asked with.

    Args:
        field: where it stands, for the message.
        special_text: see `assay.vision_language.judge.Judge`.
        allowed: what it should say, in words.

    Raises:
        RefusedError: it is one.
    """
    if not text.strip():
        raise RefusedError("MISSING_PROMPT", f"{field} is {text!r}; allowed: {allowed}")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise RefusedError(
            "PROMPT_TOO_LONG", f"{field} has {len(text)} characters; allowed: at most {MAX_TEXT_CHARACTERS}"
        )
    special = IMAGE if IMAGE in text else special_text(text)
    if special is not None:
        raise RefusedError(
            "PROMPT_HAS_MARKS", f"{field} holds {special!r}, which the judge would not read as text; leave it out"
        )
