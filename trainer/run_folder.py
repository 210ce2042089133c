"""The folder of a run: what it is a run of, its log, its evaluations. What is written survives a kill at any moment.

run.json            the settings that decide the numbers; another run is refused
identity            the name by which trackers know it again
metrics.jsonl       a line an epoch
evaluations/        a folder an evaluation: results.jsonl, summary.json, PNG of the gallery's pictures
checkpoints/        see trainer.checkpoint
lora/               what was trained; model/ where it is the whole model; renewed at every checkpoint
table.md results.json gallery.png reward_curve.png ratios.png     renewed at every evaluation
best/               the LoRA, or the whole model, of the best evaluation
"""

import hashlib
import json
import re
from math import isfinite
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from PIL import Image

from assay.client_tls import ClientTls
from assay.errors import ConfigError
from assay.files import digest_file, digest_folder, write_whole
from generators.text_to_image import LORA_FILE, find_lora, needed_lora
from trainer.config import TrainConfig
from trainer.data_rows import read_data
from trainer.evaluation import EvaluatedImage, Evaluation
from trainer.prompts import read_prompts
from trainer.run_settings import differences, flat

# Fields that may differ when a run is taken up again: they decide when and where it runs, in how much memory, and what
# is kept of it, not its numbers.
FREE_RUN_FIELDS = {
    "output",
    "epochs",
    "save_every_epochs",
    "trackers",
    "threads",
    "reward_deadline_s",
    "service_wait_s",
    *ClientTls.model_fields,
}
FREE_MODEL_FIELDS = {"embeddings_cache", "gradient_checkpointing"}
# Held-out pairs are drawn one by one. Patience is asked anew before each epoch, of all evaluations so far.
FREE_EVALUATION_FIELDS = {"batch_size", "every_epochs", "keep_best", "patience"}
# What the model is without its adapter does not depend on these: they are free while it alone was evaluated.
OF_TRAINING = ("sampling", "advantages", "algorithm", "optimizer", "ema", "model.lora_", "run.epochs")


class RunFolder:
    """Reads and writes the folder of one run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.checkpoints = root / "checkpoints"
        self._metrics = root / "metrics.jsonl"

    def claim(self, config: TrainConfig) -> None:
        """Make the folder this run's, or check that it is. Where nothing was evaluated or trained yet, it is free.

        Where the start alone was evaluated, what only training reads is still free.

        Raises:
            ConfigError: it holds a run with other settings; names the first field that differs. Or a file that decides
                the numbers cannot be read.
        """
        mine = dict(flat(_identity(config)))
        record = self.root / "run.json"
        is_trained = self._metrics.exists()
        if record.exists() and (is_trained or (self.root / "evaluations").exists()):
            theirs = _without_free(json.loads(record.read_text()))
            for field in differences(theirs, mine, config):
                if field.startswith(OF_TRAINING) and not is_trained:
                    continue
                raise ConfigError(
                    f"run.output = {self.root} holds a run with {field} = {theirs.get(field)!r}, "
                    f"not {mine.get(field)!r}: choose another run.output, or delete that folder"
                )
        if is_trained:
            return
        self.root.mkdir(parents=True, exist_ok=True)
        write_whole(record, json.dumps(mine, indent=1) + "\n")

    def identity(self) -> str:
        """A name that no other run has: a folder keeps it when it is moved, and gets another when it is begun anew."""
        file = self.root / "identity"
        if not file.exists():
            readable = re.sub(r"[^\w.-]", "-", self.root.resolve().name)
            write_whole(file, f"{readable}-{uuid4().hex[:12]}\n")
        return file.read_text().strip()

    def append_metrics(self, line: dict[str, Any]) -> None:
        with self._metrics.open("a") as file:
            file.write(json.dumps(_without_nan(line)) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The logged epochs. A last line that a kill cut short is left out."""
        if not self._metrics.exists():
            return []
        return [json.loads(line) for line in self._metrics.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def forget_after(self, epoch: int) -> None:
        """Drop logged epochs that will be trained again."""
        kept = [line for line in self.metrics() if line["epoch"] <= epoch]
        if self._metrics.exists():
            write_whole(self._metrics, "".join(json.dumps(line) + "\n" for line in kept))

    def has_evaluation(self, epoch: int) -> bool:
        return (self._evaluation(epoch) / "summary.json").exists()

    def save_evaluation(self, evaluation: Evaluation, accuracy: str, minutes: float) -> None:
        """Write images and judgements; `summary.json` comes last and makes the evaluation whole."""
        folder = self._evaluation(evaluation.epoch)
        folder.mkdir(parents=True, exist_ok=True)
        for image in evaluation.images:
            if image.image is not None:
                Image.fromarray(image.image).save(folder / f"{image.index:05d}.png")
        write_whole(folder / "results.jsonl", "".join(json.dumps(_row(image)) + "\n" for image in evaluation.images))
        summary = {**evaluation.summary(accuracy), "minutes": minutes}
        write_whole(folder / "summary.json", json.dumps(_without_nan(summary), indent=1) + "\n")

    def load_evaluation(self, epoch: int) -> Evaluation:
        folder = self._evaluation(epoch)
        rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
        return Evaluation(epoch, [_from_row(row, folder) for row in rows])

    def evaluation_summaries(self) -> list[dict[str, Any]]:
        """In order of their epochs."""
        return [json.loads(path.read_text()) for path in sorted(self.root.glob("evaluations/epoch-*/summary.json"))]

    def _evaluation(self, epoch: int) -> Path:
        return self.root / "evaluations" / f"epoch-{epoch:06d}"


def _without_free(settings: dict[str, Any]) -> dict[str, Any]:
    """Less those that have become free since they were written."""
    free = {f"model.{field}" for field in FREE_MODEL_FIELDS} | {
        f"evaluation.{field}" for field in FREE_EVALUATION_FIELDS
    }
    return {field: value for field, value in settings.items() if field not in free}


def _identity(config: TrainConfig) -> dict[str, Any]:
    """All settings but the free ones, and digests of the local files that they name. How long the run is to be is free,
    unless the learning rate depends on it."""
    settings = config.model_dump(mode="json")
    for field in FREE_RUN_FIELDS - ({"epochs"} if config.optimizer.looks_ahead else set()):
        settings["run"].pop(field)
    for section, fields in (("model", FREE_MODEL_FIELDS), ("evaluation", FREE_EVALUATION_FIELDS)):
        for field in fields if settings[section] else ():
            settings[section].pop(field)
    for reward in [*settings["rewards"], *((settings["evaluation"] or {}).get("rewards", ()))]:
        reward.pop("targets")
        reward.pop("hedge_budget")
    return {**settings, "weights": model_digest(config), **_contents(config)}


def _contents(config: TrainConfig) -> dict[str, str]:
    """Digests of what the run starts and learns from, by field. What is on the hub has only its name."""
    files = {"prompts.train": config.prompts.train, "prompts.test": config.prompts.test, "algorithm.data": config.data}
    digests = {name: digest_file(file) for name, file in files.items() if file is not None and file.is_file()}
    if config.model.cold_start_lora and Path(find_lora(config.model.cold_start_lora)).is_dir():
        digests["model.cold_start_lora"] = "+".join(_fused(config.model.cold_start_lora))
    return {f"content of {name}": digest for name, digest in {**digests, "pictures": _pictures(config)}.items()}


def _pictures(config: TrainConfig) -> str:
    """Digest of the names and sizes in bytes of the pictures that are learnt from, and of all references.

    Not of their contents: to read a large set whole would take longer than much else of the start. A picture drawn
    anew hardly ever has as many bytes as before.
    """
    prompts = config.prompts.train if config.data is None else None
    test_prompts = config.prompts.test if config.evaluation else None
    files = [file for row in (read_data(config) if config.data else []) for file in (*row.images, *row.references)]
    for path in (prompts, test_prompts):
        files += [reference for prompt in (read_prompts(path) if path else []) for reference in prompt.references]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file}:{file.stat().st_size}\n".encode())
    return digest.hexdigest()


def model_digest(config: TrainConfig) -> str:
    """Identity of the model's weights: of their content where they are local files, else their name."""
    folder = Path(config.model.path)
    content = digest_folder(folder, ["**/*.safetensors", "**/pytorch_model.bin"]) if folder.is_dir() else str(folder)
    size = f"{config.model.max_sequence_length}:{config.model.encoder_dtype}"
    return f"{content}:{size}:{config.model.height}x{config.model.width}"


def encoders_digest(config: TrainConfig) -> str:
    """Identity of what encodes prompts: the model's weights, and the LoRAs that are merged into them, in that order.

    A LoRA may change text encoders, too.
    """
    return "+".join([model_digest(config), *_fused(config.model.cold_start_lora)])


def _fused(lora: str | None) -> list[str]:
    """Digests of a LoRA, and before it of those that it was trained on top of; of what is on the hub its name."""
    if lora is None:
        return []
    file = Path(find_lora(lora)) / LORA_FILE
    return [*_fused(needed_lora(lora)), digest_file(file) if file.is_file() else lora]


def _row(image: EvaluatedImage) -> dict[str, Any]:
    return _without_nan(
        {
            "index": image.index,
            "prompt": image.prompt,
            "count": image.count,
            "total": image.total,
            "components": image.components,
        }
    )


def _from_row(row: dict[str, Any], folder: Path) -> EvaluatedImage:
    picture = folder / f"{row['index']:05d}.png"
    return EvaluatedImage(
        index=row["index"],
        prompt=row["prompt"],
        count=row["count"],
        total=_number(row["total"]),
        components={name: _number(value) for name, value in row["components"].items()},
        image=np.asarray(Image.open(picture)) if picture.exists() else None,
    )


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for them."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and not isfinite(value) else value
