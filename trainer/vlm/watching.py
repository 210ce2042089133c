"""What happens while training goes on: evaluations, logs, and the mark of a complete checkpoint."""

import json
from dataclasses import dataclass
from typing import Any, Protocol

from accelerate import Accelerator
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from assay.files import write_whole
from trainer.vlm.run_folder import ANSWERS, HELD_OUT, METRICS, FineTuningFolder


@dataclass(frozen=True)
class Evaluation:
    """What held-out conversations say of a model.

    Args:
        summary: by kind of question, its numbers; `agreement` is the share of answers that are right.
        lines: one an answer.
    """

    summary: dict[str, dict[str, float | int | None]]
    lines: list[dict[str, Any]]


class Judge(Protocol):
    """Holds held-out conversations, and asks a model about them."""

    def evaluate(self, model: Any, accelerator: Accelerator) -> Evaluation | None:
        """Ask about all, shared out among the processes; every process gets all. None if there are none.

        Args:
            model: in evaluation mode.
            accelerator: of the run.
        """
        ...


class Watcher(TrainerCallback):
    """Evaluates before, after, and every so many steps; logs; marks checkpoints.

    Args:
        folder: of the run.
        judge: with what is held out.
        every_steps: between evaluations; 0: only before and after.
    """

    def __init__(self, folder: FineTuningFolder, judge: Judge, every_steps: int) -> None:
        self._folder, self._judge, self._every_steps = folder, judge, every_steps
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
        if step in self._done:
            return
        assert self.accelerator is not None
        asked = self.accelerator.unwrap_model(model)
        was_training = asked.training
        asked.eval()
        found = self._judge.evaluate(asked, self.accelerator)
        asked.train(was_training)
        if found is not None and self.accelerator.is_main_process:
            self._folder.append(HELD_OUT, {"step": step, **found.summary})
            write_whole(self._folder.root / ANSWERS, "".join(json.dumps(line) + "\n" for line in found.lines))
            said = ", ".join(f"{kind} {numbers['agreement']:.3f}" for kind, numbers in found.summary.items())
            tqdm.write(f"held-out agreement after {step} steps: {said}")
