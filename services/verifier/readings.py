"""How answers become scores: one reading for each scorer, in the default protocol and in the published one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from assay.vision_language.answers import Answer

# What the published code takes for the confidence in "no" if the drawn answer is neither yes nor no.
INVALID_POTENTIAL = 50.0


@dataclass(frozen=True)
class Reading:
    """From the answers to a sample's questions, in order, to its score.

    Args:
        value: what is trained on, or ranked by; higher is better.
        further: components beside those of the last answer.
        value_range: lowest and highest value.
    """

    value: Callable[[Sequence[Answer]], float]
    further: Callable[[Sequence[Answer]], Mapping[str, float]] = lambda answers: {}
    value_range: tuple[float, float] = (0.0, 1.0)

    def components(self, answers: Sequence[Answer]) -> dict[str, float]:
        """All named parts: the last answer's by their names, those before it after `clarity/`."""
        named = {f"clarity/{name}": number for answer in answers[:-1] for name, number in answer.components.items()}
        return {**answers[-1].components, **named, **self.further(answers)}


def _p(answers: Sequence[Answer]) -> float:
    return answers[-1].p


def _sampled_outcome(answers: Sequence[Answer]) -> float:
    said = answers[0].components
    return said["p_yes"] if said["valid"] else 0.0


def _sampled_clarity(answers: Sequence[Answer]) -> float:
    """Whatever is not no is yes."""
    return 1.0 - answers[0].components["said_no"]


def _sampled_potential(answers: Sequence[Answer]) -> Mapping[str, float]:
    """`score` is the confidence in no, by which the reference ranks upwards: 1 if it was not asked, not clear."""
    is_clear = len(answers) == 2
    said = answers[-1].components
    score = 1.0 if not is_clear else said["p_no"] if said["valid"] else INVALID_POTENTIAL
    return {
        "score": score,
        "is_clear": float(is_clear),
        "has_potential": float(is_clear and bool(said["said_yes"])),
    }


LOGITS = {"orm": Reading(_p), "parm-clarity": Reading(_p), "parm-potential": Reading(_p)}
SAMPLED = {
    "orm": Reading(_sampled_outcome),
    "parm-clarity": Reading(_sampled_clarity),
    "parm-potential": Reading(
        lambda answers: 1.0 - _sampled_potential(answers)["score"], _sampled_potential, (1.0 - INVALID_POTENTIAL, 1.0)
    ),
}
READINGS = {"logits": LOGITS, "sampled": SAMPLED}
