"""As many yes as no within each tag, by leaving out answers of the more frequent kind."""

from collections import defaultdict
from collections.abc import Sequence

from pipelines.verifier_data.conversations import Example
from pipelines.verifier_data.held_out import share_of


def surplus(examples: Sequence[Example], kind: str, seed: int) -> frozenset[str]:
    """Ids of the examples whose last answer is one too many; drawn at random, the same in every run.

    Args:
        examples: of which those that end with a question of `kind` are counted.
        kind: of question.
        seed: another number draws others.
    """
    by_tag: dict[str, dict[str, list[str]]] = defaultdict(lambda: {"yes": [], "no": []})
    for example in examples:
        if example.last.kind == kind:
            by_tag[example.tag][example.last.answer].append(example.id)
    return frozenset(
        identity
        for answers in by_tag.values()
        for ids, others in ((answers["yes"], answers["no"]), (answers["no"], answers["yes"]))
        for identity in sorted(ids, key=lambda one: share_of("balance", seed, one))[len(others) :]
    )


def balance_outcomes(examples: Sequence[Example], seed: int) -> list[Example]:
    """Without the surplus of finished pictures."""
    out = surplus(examples, "orm", seed)
    return [example for example in examples if example.id not in out]


def balance_potentials(examples: Sequence[Example], seed: int) -> list[Example]:
    """Without the second turn of the surplus: whether these pictures are clear can still be learnt."""
    out = surplus(examples, "potential", seed)
    return [example.without_last_turn() if example.id in out else example for example in examples]
