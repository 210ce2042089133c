"""Which candidates are kept for measuring. All pictures on a candidate's path are on its side of the split.

What is held out depends on the prompt alone, or on its place and the candidate's number: prompts that are added, and
runs that are not done yet, move nothing from one side to the other.
"""

from collections.abc import Sequence

from pipelines.engine.unit import stable_seed
from pipelines.verifier_data.paths import Candidate
from pipelines.verifier_data.settings import DerivationSettings


def split(candidates: Sequence[Candidate], settings: DerivationSettings) -> tuple[list[Candidate], list[Candidate]]:
    """Those to learn from, and those to measure on.

    Args:
        candidates: all of them.
        settings: `held_out`, `split_by` and `split_seed`.
    """
    held = [candidate for candidate in candidates if is_held_out(candidate, settings)]
    return [candidate for candidate in candidates if not is_held_out(candidate, settings)], held


def is_held_out(candidate: Candidate, settings: DerivationSettings) -> bool:
    """Whether a candidate is measured on. Prompts of the same words are one prompt, wherever they stand."""
    identity: tuple[int | str, ...] = (" ".join(words_of(candidate.prompt)),)
    if settings.split_by == "seed":
        identity = (candidate.item, candidate.number)
    return share_of("held out", settings.split_seed, *identity) < settings.held_out


def words_of(prompt: str) -> tuple[str, ...]:
    """By which prompts are the same: case and the space between words do not count."""
    return tuple(prompt.casefold().split())


def share_of(*identity: int | str) -> float:
    """A number in [0, 1) that is drawn for what has this identity, the same in every run."""
    return stable_seed(*identity) / 2**63
