"""What happens while training goes on: evaluations, logs, and the mark of a complete checkpoint."""

import json
from collections.abc import Sequence
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from assay.files import write_whole
from trainer.vlm.run_folder import ANSWERS, HELD_OUT, METRICS, FineTuningFolder
from trainer.vlm.yes_no import Answered, Question, YesNoJudge, summarize


class Watcher(TrainerCallback):
    """Evaluates before, after, and every so many steps; logs; marks checkpoints.

    Args:
        folder: of the run.
        judge: asks.
        questions: held out; may be none.
        every_steps: between evaluations; 0: only before and after.
    """

    def __init__(
        self, folder: FineTuningFolder, judge: YesNoJudge, questions: Sequence[Question], every_steps: int
    ) -> None:
        self._folder, self._judge, self._questions, self._every_steps = folder, judge, questions, every_steps
        self._done = {line["step"] for line in folder.lines(HELD_OUT)}
        self.accelerator: Accelerator | None = None  # the trainer's, which is made after its callbacks

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0:
            self._evaluate(kwargs["model"], 0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._every_steps and state.global_step % self._every_steps == 0:
            self._evaluate(kwargs["model"], state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self._every_steps or state.global_step % self._every_steps:
            self._evaluate(kwargs["model"], state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero and logs:
            self._folder.append(METRICS, {"step": state.global_step, **logs})

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        assert self.accelerator is not None
        self.accelerator.wait_for_everyone()  # each process writes its own part
        if state.is_world_process_zero:
            self._folder.mark_complete(state.global_step)

    def _evaluate(self, model: Any, step: int) -> None:
        if not self._questions or step in self._done:
            return
        assert self.accelerator is not None
        answers = self._judge.ask(self.accelerator.unwrap_model(model), self._questions, self.accelerator)
        if self.accelerator.is_main_process:
            found = summarize(answers)
            self._folder.append(HELD_OUT, {"step": step, **found})
            write_whole(self._folder.root / ANSWERS, "".join(_line(answer) for answer in answers))
            said = ", ".join(f"{kind} {numbers['agreement']:.3f}" for kind, numbers in found.items())
            tqdm.write(f"held-out agreement after {step} steps: {said}")


def _line(answer: Answered) -> str:
    question = answer.question
    row = {
        "id": question.id,
        "kind": question.kind,
        "images": [str(path) for path in question.images],
        "label": "yes" if question.is_yes else "no",
        "p": answer.p,
        "margin": answer.margin,
    }
    return json.dumps(row) + "\n"
