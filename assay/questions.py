"""What a verifier is asked: text files with places for the prompt.

The service asks these questions, and verifiers are trained on them (`assay data verifier`): one text, byte for byte.
So nothing is stripped from a file but the line break at its end.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.config import ConfigModel
from assay.errors import ConfigError

IMAGE = "<image>"
QUESTION_FILES = Path(__file__).with_name("question_files")
_PLACE = re.compile(r"\{(\w*)\}")
_STEPS = ("step", "num_steps")


class QuestionFiles(ConfigModel):
    """Files with the questions; null takes those of `assay/question_files`.

    Args:
        orm: about a finished image.
        clarity: about an unfinished one.
        potential: the turn after `clarity`, to which the judge is taken to have said yes.
    """

    orm: Path | None = None
    clarity: Path | None = None
    potential: Path | None = None


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


def fill(text: str, **values: str) -> str:
    """Put values into places such as `{prompt}`, in one pass; what no value is given for stays as it is."""
    return _PLACE.sub(lambda match: values.get(match[1], match[0]), text)


def content_parts(text: str, image_part: dict[str, Any]) -> list[dict[str, Any]]:
    """A message's content, as chat templates and chat completions take it: `image_part` where `<image>` stands, and the
    text between as it is."""
    parts: list[dict[str, Any]] = []
    for number, piece in enumerate(text.split(IMAGE)):
        parts += [image_part] if number else []
        parts += [{"type": "text", "text": piece}] if piece else []
    return parts


def after_images(text: str, images: int) -> str:
    """A question without marks, asked about so many images: a mark for each before it, as in spatial training data."""
    return f"{IMAGE}\n" * images + text


def read_questions(files: QuestionFiles = QuestionFiles(), field: str = "templates") -> dict[str, Template]:  # noqa: B008
    """The questions by name: those that are named, and ours for the others.

    Args:
        files: where they are.
        field: of the configuration that named them, for messages.

    Raises:
        ConfigError: one cannot be read, or its places are not as they must be.
    """

    def read(name: str, path: Path | None, needs: tuple[str, ...], may_have: tuple[str, ...] = ()) -> Template:
        return read_template(path or QUESTION_FILES / f"{name}.txt", f"{field}.{name}", needs=needs, may_have=may_have)

    return {
        "orm": read("orm", files.orm, (IMAGE, "prompt")),
        "clarity": read("clarity", files.clarity, (IMAGE, "prompt"), _STEPS),
        # The prompt stands in the turn before.
        "potential": read("potential", files.potential, (), ("prompt", *_STEPS)),
    }


def read_template(
    path: Path, field: str, *, needs: tuple[str, ...], may_have: tuple[str, ...] = (), images: int = 1
) -> Template:
    """Read a question from a file and check its places.

    Args:
        path: the file, UTF-8.
        field: of the configuration that named it.
        needs: what must stand in it: `<image>` for each image, places such as `prompt` at least once.
        may_have: further places that are allowed. `<image>` is refused if it is not needed.
        images: how many the question is about.

    Raises:
        ConfigError: the file cannot be read, or its places are not as they must be.
    """
    try:
        text = path.read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{field} = {str(path)!r} cannot be read: {error}", reason="TEMPLATE_UNREADABLE") from error
    places = set(_PLACE.findall(text))
    faults = [f"{{{name}}} is missing" for name in needs if name != IMAGE and name not in places]
    wanted = images if IMAGE in needs else 0
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
