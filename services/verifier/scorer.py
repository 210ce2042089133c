"""The scorers that the service hosts: `orm`, `parm-clarity` and `parm-potential`.

Each asks its judge one or two questions about one image. A sample that cannot be asked about fails alone, before any
model runs; what fails on the way to a judge elsewhere fails alone, too.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from assay import answer_tokens, questions
from assay.files import digest_file
from assay.outcomes import Evidence, Failed, Outcome, Scored
from assay.questions import IMAGE, Template, fill
from assay.serving.fingerprint import digest_code, digest_parts
from assay.serving.scorer import Limits, Sample, ScorerInfo
from assay.tasks import GenEvalTask, OutcomeTask, PotentialTask
from services.verifier.answers import Answer
from services.verifier.inquiry import Inquiry
from services.verifier.judges.judge import Judge
from services.verifier.readings import READINGS

MAX_TEXT_CHARACTERS = 8000
#: Which templates a scorer asks, turn by turn.
TURNS = {"orm": ("orm",), "parm-clarity": ("clarity",), "parm-potential": ("clarity", "potential")}
# With what verifiers are trained with, too: how questions are filled, and which tokens are yes and no.
_CODE = {"code": digest_code(Path(__file__).parent)} | {
    module.__name__: digest_file(Path(str(module.__file__))) for module in (answer_tokens, questions)
}


class _Refused(Exception):
    """A sample that cannot be asked about."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


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
                raise _Refused("WRONG_IMAGE_COUNT", f"images: {len(sample.images)} images; allowed: exactly one image")
            return Inquiry(sample.images[0], self._turns(sample))
        except _Refused as refused:
            return Failed("INVALID_ARGUMENT", refused.reason, str(refused))

    def _turns(self, sample: Sample) -> tuple[str, ...]:
        task = sample.task
        if self._asks_outcome:
            if not isinstance(task, OutcomeTask | GenEvalTask | None):
                allowed = "OutcomeTask, GenEvalTask, or none"
                raise _Refused("WRONG_TASK_TYPE", f"task is a {type(task).__name__}; allowed: {allowed}")
            if isinstance(task, OutcomeTask) and task.question:
                self._check_text("task.question", task.question)
                if "{prompt}" in task.question:
                    self._check_text("prompt", sample.prompt)
                return (f"{IMAGE} {fill(task.question, prompt=sample.prompt)}",)
            places = {}
        else:
            if not isinstance(task, PotentialTask):
                raise _Refused("WRONG_TASK_TYPE", f"task is a {type(task).__name__}; allowed: PotentialTask")
            if not 0 <= task.step <= task.num_steps or task.num_steps < 1:
                raise _Refused(
                    "STEP_OUT_OF_RANGE",
                    f"task.step is {task.step} of {task.num_steps}; allowed: 0 <= step <= num_steps, num_steps >= 1",
                )
            places = {"step": str(task.step), "num_steps": str(task.num_steps)}
        self._check_text("prompt", sample.prompt)
        return tuple(template.fill(prompt=sample.prompt, **places) for template in self._templates)

    def _check_text(self, field: str, text: str) -> None:
        if not text.strip():
            raise _Refused("MISSING_PROMPT", f"{field} is {text!r}; allowed: what the image should show, in words")
        if len(text) > MAX_TEXT_CHARACTERS:
            raise _Refused(
                "PROMPT_TOO_LONG", f"{field} has {len(text)} characters; allowed: at most {MAX_TEXT_CHARACTERS}"
            )
        special = IMAGE if IMAGE in text else self._judge.special_text(text)
        if special is not None:
            raise _Refused(
                "PROMPT_HAS_MARKS", f"{field} holds {special!r}, which the judge would not read as text; leave it out"
            )

    def _outcome(self, answers: tuple[Answer, ...] | Failed) -> Outcome:
        if isinstance(answers, Failed):
            return answers
        said = ", ".join(answer.word for answer in answers)
        return Scored(self._reading.value(answers), self._reading.components(answers), Evidence(judge_text=said))
