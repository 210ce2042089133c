"""What a spatial judge is asked: text files with places, beside those of verifiers in `assay.questions`."""

from pathlib import Path

from assay.config import ConfigModel
from assay.questions import IMAGE, QUESTION_FILES, Template, read_template

#: Places and number of images of each question.
_PLACES = {
    "relation": (("subject", "relation", "reference"), 1),
    "correspondence": (("form",), 2),
    "correspondence_concat": (("form",), 1),
    "difference": (("form",), 2),
}


class SpatialQuestionFiles(ConfigModel):
    """Files with the questions; null takes those of `assay/question_files/spatial`.

    Args:
        relation: of two objects in one image, with `{subject}`, `{relation}` and `{reference}`.
        correspondence: about the marked reference and the query; `{form}` is how to point, in the family's words.
        correspondence_concat: the same with both side by side in one image.
        difference: about an original and what was made of it.
    """

    relation: Path | None = None
    correspondence: Path | None = None
    correspondence_concat: Path | None = None
    difference: Path | None = None


def read_spatial_questions(
    files: SpatialQuestionFiles = SpatialQuestionFiles(),  # noqa: B008
    field: str = "templates",
) -> dict[str, Template]:
    """The questions by name: those that are named, and ours for the others.

    Args:
        files: where they are.
        field: of the configuration that named them, for messages.

    Raises:
        ConfigError: one cannot be read, or its places are not as they must be.
    """
    return {
        name: read_template(
            getattr(files, name) or QUESTION_FILES / "spatial" / f"{name}.txt",
            f"{field}.{name}",
            needs=(IMAGE, *places),
            images=images,
        )
        for name, (places, images) in _PLACES.items()
    }
