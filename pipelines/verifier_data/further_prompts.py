"""Other prompts that a picture can be asked about: those most like its own, which it nearly fulfils, or fulfils, too.

A picture of two red kites drawn for three kites is a wrong answer to its own prompt, and a right one to "two kites": a
verifier that learns both has to look. A picture costs much to draw and little to label.
"""

from collections.abc import Sequence
from typing import Any

from pipelines.evaluate.prompts import PromptLine
from pipelines.verifier_data.held_out import share_of, words_of


def most_alike(line: PromptLine, lines: Sequence[PromptLine], number: int) -> list[dict[str, Any]]:
    """Tasks of the `number` prompts that share most words with that of `line`, in GenEval's form.

    Alike is the number of words in both prompts over that of the words in either (Jaccard); of those as alike, chance
    decides, the same in every run.
    """
    if number == 0:
        return []
    own = set(words_of(line.prompt))

    def unlike(other: PromptLine) -> tuple[float, float]:
        words = set(words_of(other.prompt))
        return -len(own & words) / len(own | words), share_of("further", 0, f"{line.prompt}\n{other.prompt}")

    others = [one for one in lines if one.problem is None and words_of(one.prompt) != words_of(line.prompt)]
    return [dict(one.metadata) for one in sorted(others, key=unlike)[:number]]
