"""Pictures with questions and answers: what a verifier is asked in service, and what it should have said.

    orm         a finished picture, and whether it is right
    clarity     an unfinished one, and whether it is clear enough to be judged: by how far the sampler was
    potential   the second turn about a clear one: whether the picture that it became is right

A clear picture is one conversation of two turns, and both its answers are learnt. LLaVA's JSON form holds them: `id`,
`image` (relative to the file), `conversations`; beside it the `kinds` of the questions, `tag` and `prompt`.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from assay.questions import Template
from pipelines.verifier_data.held_out import words_of
from pipelines.verifier_data.paths import Candidate, Label
from pipelines.verifier_data.settings import DerivationSettings

Kind = Literal["orm", "clarity", "potential"]


@dataclass(frozen=True)
class Turn:
    """A question, byte for byte, and its answer."""

    kind: Kind
    question: str
    answer: Label


@dataclass(frozen=True)
class Example:
    """A picture and what is said about it.

    Args:
        id: unique within a file.
        image: its file, relative to the root.
        prompt: what it was drawn from, or what it is asked about.
        tag: GenEval's, of that prompt.
        turns: one or two.
        step: after which it was taken; None of a finished one.
    """

    id: str
    image: str
    prompt: str
    tag: str
    turns: tuple[Turn, ...]
    step: int | None = None

    @property
    def last(self) -> Turn:
        return self.turns[-1]

    def without_last_turn(self) -> "Example":
        return replace(self, turns=self.turns[:-1])

    def to_json(self) -> dict[str, Any]:
        """LLaVA's form."""
        said = [
            {"from": speaker, "value": text}
            for turn in self.turns
            for speaker, text in (("human", turn.question), ("gpt", turn.answer))
        ]
        kinds = [turn.kind for turn in self.turns]
        return {
            "id": self.id,
            "image": self.image,
            "conversations": said,
            "kinds": kinds,
            "tag": self.tag,
            "prompt": self.prompt,
        }


def outcome_example(candidate: Candidate, questions: Mapping[str, Template]) -> Example:
    """The finished picture."""
    return _outcome(candidate, f"{_name(candidate)}-final", candidate.metadata, candidate.label, questions)


def further_examples(
    candidate: Candidate, questions: Mapping[str, Template], barred: Container[tuple[str, ...]]
) -> list[Example]:
    """The finished picture, asked about by further prompts, less those whose words are `barred`."""
    return [
        _outcome(candidate, f"{_name(candidate)}-final-further-{number}", one.metadata, one.label, questions)
        for number, one in enumerate(candidate.further)
        if words_of(one.metadata["prompt"]) not in barred
    ]


def progress_examples(
    candidate: Candidate, questions: Mapping[str, Template], settings: DerivationSettings
) -> list[Example]:
    """The pictures on the candidate's path that are clear, or are not, by `clear_above` and `unclear_below`."""
    examples = []
    for step, file in sorted(candidate.steps.items()):
        share = step / candidate.num_steps
        if settings.unclear_below <= share <= settings.clear_above:
            continue
        places = {"prompt": candidate.prompt, "step": str(step), "num_steps": str(candidate.num_steps)}
        clear = share > settings.clear_above
        turns = [Turn("clarity", questions["clarity"].fill(**places), "yes" if clear else "no")]
        if clear:
            turns.append(Turn("potential", questions["potential"].fill(**places), candidate.label))
        name = f"{_name(candidate)}-step-{step:02d}"
        examples.append(Example(name, file, candidate.prompt, candidate.tag, tuple(turns), step))
    return examples


def _outcome(
    candidate: Candidate, name: str, metadata: Mapping[str, Any], label: Label, questions: Mapping[str, Template]
) -> Example:
    prompt, tag = str(metadata["prompt"]), str(metadata["tag"])
    return Example(name, candidate.final, prompt, tag, (Turn("orm", questions["orm"].fill(prompt=prompt), label),))


def _name(candidate: Candidate) -> str:
    return f"{candidate.item}-{candidate.number:04d}"
