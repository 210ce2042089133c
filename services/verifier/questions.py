"""What a judge is asked: text files with places for the prompt, and the conversation they make about an image.

A file that fine-tuning was done with must reach the model byte for byte, so nothing is stripped but the line break at
its end.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.errors import ConfigError

IMAGE = "<image>"
_PLACE = re.compile(r"\{(\w*)\}")


@dataclass(frozen=True)
class Template:
    """A question with places to fill.

    Args:
        text: with `<image>` where the image goes, and places in braces.
        field: of the configuration that named it, for messages.
    """

    text: str
    field: str

    @property
    def digest(self) -> str:
        """SHA-256 of the text, in hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def fill(self, **values: str) -> str:
        """Put values into their places, in one pass: braces in a value stay braces."""
        return fill(self.text, **values)


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
        before, after = self.turns[0].split(IMAGE)
        parts: list[dict[str, Any]] = [{"type": "text", "text": text} for text in (before, after)]
        parts.insert(1, image_part)
        said = [part for part in parts if part.get("text") != ""]
        messages: list[dict[str, Any]] = [{"role": "user", "content": said}]
        for turn in self.turns[1:num_turns]:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": affirmation}]})
            messages.append({"role": "user", "content": [{"type": "text", "text": turn}]})
        return messages


def fill(text: str, **values: str) -> str:
    """Put values into places such as `{prompt}`, in one pass; what no value is given for stays as it is."""
    return _PLACE.sub(lambda match: values.get(match[1], match[0]), text)


def read_template(path: Path, field: str, *, needs: tuple[str, ...], may_have: tuple[str, ...] = ()) -> Template:
    """Read a question from a file and check its places.

    Args:
        path: the file, UTF-8.
        field: of the configuration that named it.
        needs: what must stand in it: `<image>` exactly once, places such as `prompt` at least once.
        may_have: further places that are allowed. `<image>` is refused if it is not needed.

    Raises:
        ConfigError: the file cannot be read, or its places are not as they must be.
    """
    try:
        text = path.read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{field} = {str(path)!r} cannot be read: {error}", reason="TEMPLATE_UNREADABLE") from error
    places = set(_PLACE.findall(text))
    faults = [f"{{{name}}} is missing" for name in needs if name != IMAGE and name not in places]
    wanted = int(IMAGE in needs)
    if text.count(IMAGE) != wanted:
        faults.append(f"{IMAGE} stands in it {text.count(IMAGE)} times; allowed: {wanted}")
    allowed = {*needs, *may_have} - {IMAGE}
    faults += [
        f"{{{name}}} is unknown; allowed: {', '.join(f'{{{one}}}' for one in sorted(allowed))}"
        for name in sorted(places - allowed)
    ]
    if not text.strip():
        faults.append("it is empty")
    if faults:
        raise ConfigError(f"{field} = {str(path)!r}: {'; '.join(faults)}", reason="TEMPLATE_INVALID")
    return Template(text, field)
