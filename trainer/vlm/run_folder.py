"""The folder of a fine-tuning run. What is written survives a kill at any moment.

run.json              the settings and data that decide the numbers; another run is refused
metrics.jsonl         a line every `log_every_steps`
held_out.jsonl        a line an evaluation: agreement and area under the curve, by kind of question
held_out_answers.jsonl   a line a question, with p, of the last evaluation
checkpoint-000/       what a killed run goes on from, of TRL's trainer
model/, or adapter/   the result
"""

import json
import shutil
from pathlib import Path
from typing import Any

from assay.errors import ConfigError
from assay.files import digest_file, write_whole
from assay.serving.model_files import digest_model, locate_model
from trainer.run_settings import differences, flat
from trainer.vlm.config import FineTuningConfig

# They decide when and where a run runs, and what it says; not its numbers.
FREE_FIELDS = {
    "output",
    "save_every_steps",
    "save_dtype",
    "evaluate_every_steps",
    "evaluation_batch_size",
    "log_every_steps",
    "trackers",
    "loader_workers",
    "threads",
    "held_out",
    "held_out_answers",
}
METRICS, HELD_OUT, ANSWERS = "metrics.jsonl", "held_out.jsonl", "held_out_answers.jsonl"
_COMPLETE = "complete"


class FineTuningFolder:
    """Reads and writes one."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def claim(self, config: FineTuningConfig, num_processes: int) -> None:
        """Make the folder this run's, or check that it is; it is free while it has no checkpoint and no result.

        Raises:
            ConfigError: it holds another run; names the first setting that differs.
        """
        record, mine = self.root / "run.json", dict(flat(_identity(config, num_processes)))
        if record.exists() and (self.newest_checkpoint() is not None or self._result().exists()):
            theirs = dict(flat(json.loads(record.read_text())))
            for field in differences(theirs, mine, config):
                raise ConfigError(
                    f"output = {self.root} holds a run with {field} = {theirs.get(field)!r}, not "
                    f"{mine.get(field)!r}: choose another output, or delete that folder"
                )
            return
        self.root.mkdir(parents=True, exist_ok=True)
        write_whole(record, json.dumps(mine, indent=1) + "\n")

    def newest_checkpoint(self) -> Path | None:
        """The newest checkpoint that was written to its end."""
        complete = [path for path in self.root.glob("checkpoint-*") if (path / _COMPLETE).exists()]
        return max(complete, key=_step, default=None)

    def mark_complete(self, step: int) -> None:
        """The checkpoint of a step is whole: TRL's trainer writes it file by file, in place."""
        write_whole(self.root / f"checkpoint-{step}" / _COMPLETE, "")

    def forget_after(self, checkpoint: Path | None) -> None:
        """Drop what was begun after a checkpoint, and logged: it will be done again."""
        last = 0 if checkpoint is None else _step(checkpoint)
        for path in self.root.glob("checkpoint-*"):
            if not (path / _COMPLETE).exists():
                shutil.rmtree(path)
        for name in (METRICS, HELD_OUT):
            kept = [line for line in self.lines(name) if line["step"] <= last and checkpoint is not None]
            write_whole(self.root / name, "".join(json.dumps(line) + "\n" for line in kept))

    def append(self, name: str, line: dict[str, Any]) -> None:
        with (self.root / name).open("a") as file:
            file.write(json.dumps(line) + "\n")

    def lines(self, name: str) -> list[dict[str, Any]]:
        """What was logged. A last line that a kill cut short is left out."""
        path = self.root / name
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def _result(self) -> Path:
        adapter = self.root / "adapter"
        return adapter if adapter.exists() else self.root / "model"


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _identity(config: FineTuningConfig, num_processes: int) -> dict[str, Any]:
    """All settings but the free ones, and digests of the files that they name (not of the pictures that these name)."""
    settings = config.model_dump(mode="json", exclude=FREE_FIELDS)
    sources = (*config.data, *config.held_out)
    contents = {f"content of {source.path}": digest_file(source.path) for source in sources}
    weights = digest_model(locate_model(config.model, config.revision))
    return {**settings, **contents, "weights": weights, "processes": num_processes}
