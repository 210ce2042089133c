"""The scorers that the service hosts: `orm`, `parm-clarity` and `parm-potential`.

Each asks its judge one or two questions about one image. A sample that cannot be asked about fails alone, before any
model runs; what fails on the way to a judge elsewhere fails alone, too.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from assay.outcomes import Evidence, Failed, Outcome, Scored
from assay.questions import IMAGE, Template, fill
from assay.serving.fingerprint import digest_code, digest_parts
from assay.serving.scorer import Limits, Sample, ScorerInfo
from assay.tasks import GenEvalTask, OutcomeTask, PotentialTask
from assay.vision_language.answers import Answer
from assay.vision_language.code_digest import CODE
from assay.vision_language.inquiry import Inquiry
from assay.vision_language.judge import Judge
from assay.vision_language.texts import RefusedError, check_text
from services.verifier.readings import READINGS

#: Which templates a scorer asks, turn by turn.
TURNS = {"orm": ("orm",), "parm-clarity": ("clarity",), "parm-potential": ("clarity", "potential")}
_CODE = {"code": digest_code(Path(__file__).parent), **CODE}


class VerifierScorer:
    """Scores one image a sample; see `assay.serving.scorer.Scorer`.

    Args:
        name: key of `TURNS`.
        judge: may be shared by several scorers.
        templates: by the names in `TURNS`.
        protocol: key of `services.verifier.readings.READINGS`; the judge's.
        limits: admission limits.
    """

    def __init__(
        self, name: str, judge: Judge, templates: Mapping[str, Template], protocol: str, limits: Limits | None = None
    ) -> None:
        self._judge = judge
        self._templates = [templates[turn] for turn in TURNS[name]]
        self._reading = READINGS[protocol][name]
        self._asks_outcome = name == "orm"
        digests = {f"template {turn}": templates[turn].digest for turn in TURNS[name]}
        self._info = ScorerInfo(
            name=name,
            fingerprint=digest_parts({**judge.fingerprint_parts, **digests, **_CODE, "scorer": name}),
            value_range=self._reading.value_range,
            deterministic=judge.deterministic,
            # A task of GenEval comes with its prompt: both scorers can judge what one trainer sends.
            tasks=("OutcomeTask", "GenEvalTask") if self._asks_outcome else ("PotentialTask",),
            limits=limits or Limits(),
        )

    @property
    def info(self) -> ScorerInfo:
        return self._info

    def score(self, batch: Sequence[Sample]) -> list[Outcome]:
        admitted = [self._admit(sample) for sample in batch]
        inquiries = [one for one in admitted if isinstance(one, Inquiry)]
        answers = iter(self._judge.ask(inquiries) if inquiries else ())
        return [one if isinstance(one, Failed) else self._outcome(next(answers)) for one in admitted]

    def _admit(self, sample: Sample) -> Inquiry | Failed:
        try:
            if len(sample.images) != 1:
                raise RefusedError(
                    "WRONG_IMAGE_COUNT", f"images: {len(sample.images)} images; allowed: exactly one image"
                )
            return Inquiry(sample.images, self._turns(sample))
        except RefusedError as refused:
            return refused.failed()

    def _turns(self, sample: Sample) -> tuple[str, ...]:
        task = sample.task
        if self._asks_outcome:
            if not isinstance(task, OutcomeTask | GenEvalTask | None):
                allowed = "OutcomeTask, GenEvalTask, or none"
                raise RefusedError("WRONG_TASK_TYPE", f"task is a {type(task).__name__}; allowed: {allowed}")
            if isinstance(task, OutcomeTask) and task.question:
                self._check_text("task.question", task.question)
                if "{prompt}" in task.question:
                    self._check_text("prompt", sample.prompt)
                return (f"{IMAGE} {fill(task.question, prompt=sample.prompt)}",)
            places = {}
        else:
            if not isinstance(task, PotentialTask):
                raise RefusedError("WRONG_TASK_TYPE", f"task is a {type(task).__name__}; allowed: PotentialTask")
            if not 0 <= task.step <= task.num_steps or task.num_steps < 1:
                raise RefusedError(
                    "STEP_OUT_OF_RANGE",
                    f"task.step is {task.step} of {task.num_steps}; allowed: 0 <= step <= num_steps, num_steps >= 1",
                )
            places = {"step": str(task.step), "num_steps": str(task.num_steps)}
        self._check_text("prompt", sample.prompt)
        return tuple(template.fill(prompt=sample.prompt, **places) for template in self._templates)

    def _check_text(self, field: str, text: str) -> None:
        check_text(field, text, self._judge.special_text, "what the image should show, in words")

    def _outcome(self, answers: tuple[Answer, ...] | Failed) -> Outcome:
        if isinstance(answers, Failed):
            return answers
        said = ", ".join(answer.word for answer in answers)
        return Scored(self._reading.value(answers), self._reading.components(answers), Evidence(judge_text=said))
