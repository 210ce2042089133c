"""The scorer `relation`: the model's probability that two objects stand as asked, with a detector's opinion beside it.

Neither is made up: where the detector cannot tell it abstains, and what becomes of the item then is configured.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assay.files import digest_file
from assay.outcomes import Detection, Evidence, Failed, Outcome, Scored
from assay.questions import Template
from assay.serving.fingerprint import digest_code, digest_parts
from assay.serving.scorer import Limits, Sample, ScorerInfo
from assay.vision_language.answers import Answer
from assay.vision_language.code_digest import CODE
from assay.vision_language.inquiry import Inquiry
from assay.vision_language.judge import Answers, Judge
from assay.vision_language.texts import RefusedError, check_text
from services.geneval import detectors, rules, vocabulary
from services.spatial.config import RelationBlock
from services.spatial.detector_opinion import DetectorOpinions, Opinion
from services.spatial.statement import Statement, statements_of

_CODE = {
    "code": digest_code(Path(__file__).parent),
    "detectors": digest_code(Path(str(detectors.__file__)).parent),
    **{module.__name__: digest_file(Path(str(module.__file__))) for module in (rules, vocabulary)},
    **CODE,
}


@dataclass(frozen=True)
class _Case:
    """One sample on its way, and what is stated of its image."""

    image: NDArray[np.uint8]
    statements: tuple[Statement, ...]


@dataclass(frozen=True)
class _Judged:
    """What is said of one statement."""

    value: float
    components: dict[str, float]
    reason: str
    word: str
    detections: tuple[Detection, ...]


class RelationScorer:
    """Scores one image a sample; see `assay.serving.scorer.Scorer`.

    Args:
        judge: the model.
        opinions: of a detector; None: there is none.
        template: the question.
        settings: how a value is made.
        limits: admission limits.
    """

    def __init__(
        self,
        judge: Judge,
        opinions: DetectorOpinions | None,
        template: Template,
        settings: RelationBlock,
        limits: Limits | None = None,
    ) -> None:
        self._judge = judge
        self._opinions = opinions
        self._template = template
        self._settings = settings
        parts = {**judge.fingerprint_parts, **(opinions.fingerprint_parts if opinions else {"detector": "none"})}
        made = repr((settings.value, settings.unsure_within, settings.on_abstain))
        self._info = ScorerInfo(
            name="relation",
            fingerprint=digest_parts({**parts, **_CODE, "template": template.digest, "settings": made}),
            value_range=(0.0, 1.0),
            deterministic=judge.deterministic,
            # A GenEval task of positions is one, too: both scorers can judge what one trainer sends.
            tasks=("SpatialTask", "GenEvalTask"),
            limits=limits or Limits(),
        )

    @property
    def info(self) -> ScorerInfo:
        return self._info

    def score(self, batch: Sequence[Sample]) -> list[Outcome]:
        admitted = [self._admit(sample) for sample in batch]
        cases = [case for case in admitted if isinstance(case, _Case)]
        inquiries = [self._inquiry(case.image, one) for case in cases for one in case.statements]
        answers = iter(self._judge.ask(inquiries) if inquiries else ())
        opinions = iter(self._opinions_of(cases))
        return [
            case
            if isinstance(case, Failed)
            else self._outcome(case, [next(answers) for _ in case.statements], next(opinions))
            for case in admitted
        ]

    def _admit(self, sample: Sample) -> _Case | Failed:
        try:
            if len(sample.images) != 1:
                raise RefusedError(
                    "WRONG_IMAGE_COUNT", f"images: {len(sample.images)} images; allowed: exactly one image"
                )
            statements = statements_of(sample.task)
            for one in statements:
                for field, text in (("subject", one.subject), ("reference", one.reference)):
                    check_text(f"task.{field}", text, self._judge.special_text, "an object, in words")
            return _Case(sample.images[0], statements)
        except RefusedError as refused:
            return refused.failed()

    def _inquiry(self, image: NDArray[np.uint8], statement: Statement) -> Inquiry:
        question = self._template.fill(
            subject=statement.subject_words, relation=statement.relation, reference=statement.reference_words
        )
        return Inquiry((image,), (question,))

    def _opinions_of(self, cases: Sequence[_Case]) -> list[list[Opinion | None]]:
        """One opinion a statement, or None without a detector."""
        if self._opinions is None or not cases:
            return [[None] * len(case.statements) for case in cases]
        found = self._opinions.detect([case.image for case in cases])
        return [
            [self._opinions.opinion(one, kept, case.image) for one in case.statements]
            for case, kept in zip(cases, found, strict=True)
        ]

    def _outcome(self, case: _Case, answers: Sequence[Answers], opinions: Sequence[Opinion | None]) -> Outcome:
        judged: list[_Judged] = []
        for statement, answer, opinion in zip(case.statements, answers, opinions, strict=True):
            if isinstance(answer, Failed):
                return answer
            one = self._judged(statement, answer[-1], opinion)
            if isinstance(one, Failed):
                return one
            judged.append(one)
        # All must hold, so the least likely one decides.
        least = min(judged, key=lambda one: one.value)
        components = dict(least.components)
        if len(judged) > 1:
            components |= {f"{n}/{name}": part for n, one in enumerate(judged) for name, part in one.components.items()}
        detections = tuple(dict.fromkeys(found for one in judged for found in one.detections))
        reason, said = ("; ".join(one.reason for one in judged), ", ".join(one.word for one in judged))
        return Scored(least.value, components, Evidence(detections=detections, reason=reason, judge_text=said))

    def _judged(self, statement: Statement, answer: Answer, opinion: Opinion | None) -> _Judged | Failed:
        p, margin = answer.p, answer.components["margin"]
        if not (math.isfinite(p) and math.isfinite(margin)):
            return Failed("INTERNAL", "ANSWER_NOT_FINITE", f"the model answered p = {p}, margin = {margin}")
        doubts = [opinion.abstains_for] if opinion is not None and opinion.passes is None else []
        if abs(p - 0.5) < self._settings.unsure_within:
            doubts.append(f"the model is unsure (p = {p:.3f}, within {self._settings.unsure_within:g} of 0.5)")
        if doubts and self._settings.on_abstain == "fail":
            return Failed("FAILED_PRECONDITION", "JUDGE_ABSTAINED", "; ".join(doubts))
        components = {
            "vlm_p": p,
            "vlm_margin": margin,
            "vlm_answered": answer.components["answered"],
            "abstained": float(bool(doubts)),
        }
        passes = None if opinion is None else opinion.passes
        if opinion is not None and opinion.passes is not None:
            components["detector_pass"] = float(opinion.passes)
        if opinion is not None and opinion.margin is not None:
            components["detector_margin"] = opinion.margin
        return _Judged(
            self._value(p, passes),
            components,
            "; ".join([_in_words(statement, p, passes), *doubts]),
            answer.word,
            () if opinion is None else opinion.detections,
        )

    def _value(self, p: float, passes: bool | None) -> float:
        """From the model's p and the detector's opinion, None where it has none."""
        if self._settings.value == "vlm" or passes is None:
            return p
        return float(passes) if self._settings.value == "detector" else min(p, float(passes))


def _in_words(statement: Statement, p: float, passes: bool | None) -> str:
    said = f"{statement.subject_words} {statement.relation} {statement.reference_words}: model {p:.3f}"
    return said if passes is None else f"{said}, detector {'yes' if passes else 'no'}"
