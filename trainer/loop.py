"""The training loop: batches -> update -> log -> checkpoint -> evaluation, and an evaluation before and after.

Runs on one process or several under `accelerate launch`.
"""

import json
import time
from contextlib import AbstractContextManager, nullcontext
from math import isfinite
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from assay.errors import ConfigError, FingerprintMismatchError
from assay.files import write_whole
from assay.rewards import RewardSet
from assay.tracing import span
from generators.loading import load_trainable
from generators.opened import OpenedPipeline
from generators.showo.trainable import ShowoGenerator
from generators.text_to_image import NEEDS_FILE
from generators.trainable import TrainableGenerator
from trainer.algorithms.choice import make_algorithm
from trainer.algorithms.masked_tokens import MaskedTokensConfig
from trainer.arithmetic import arithmetic, unmoved_average
from trainer.batch_source import BatchSource
from trainer.checkpoint import gather_tensors, load_checkpoint, newest_checkpoint, put_tensors, save_checkpoint
from trainer.config import TrainConfig
from trainer.dataset import DatasetSource
from trainer.ema import Ema
from trainer.embeddings_cache import PromptEncoder
from trainer.held_out import HeldOut
from trainer.layout import lay_out
from trainer.learning_rate import LearningRateSchedule
from trainer.memory_estimate import has_second_branch, memory_estimate
from trainer.metric_sums import MetricSums
from trainer.policy_copy import PolicyCopy
from trainer.prompts import PromptTask, read_prompts
from trainer.rollout_source import RolloutSource
from trainer.run_folder import RunFolder, encoders_digest
from trainer.trackers import start_trackers
from trainer.update import PolicyUpdate

AUTOCAST_DTYPES = {"no": None, "fp16": torch.float16, "bf16": torch.bfloat16}


class Trainer:
    """One run.

    Args:
        config: the whole configuration.
        accelerator: device and processes.
        rewards: the services that rollouts are scored by, already reachable; None where there are no rollouts.
        judges: the services of the held-out evaluation, those of `rewards` first.
    """

    def __init__(
        self, config: TrainConfig, accelerator: Accelerator, rewards: RewardSet | None, judges: list[RewardSet]
    ) -> None:
        self._config, self._accelerator, self._judges = config, accelerator, judges
        self._folder = RunFolder(config.run.output)
        self._claim_folder()
        prompts = read_prompts(config.prompts.train) if config.prompts.train and config.data is None else []
        test_prompts = read_prompts(config.prompts.test) if config.prompts.test and config.evaluation else []
        torch.manual_seed(config.run.seed)
        self._generator = _load_generator(config)
        accelerator.print(self._amounts())  # before there is more on the device than fits it
        self._generator.pipeline.to(accelerator.device)
        self._layout = lay_out(accelerator, self._generator.transformer, config.optimizer)
        if self._layout.in_step and not self._generator.can_be_sharded:
            raise ConfigError("accelerate is to shard the model; allowed for Show-o: plain data parallelism")
        trained = list(self._layout.parameters.values())
        self._encoder = PromptEncoder(
            self._generator,
            accelerator.device,
            config.model.embeddings_cache,
            encoders_digest(config),
            getattr(torch, config.model.encoder_dtype),
        )
        self._algorithm = make_algorithm(config, cast(Any, self._generator), self._encoder.negative, trained)
        self._ema = Ema(trained, config.ema.decay, config.ema.every_steps) if config.ema.enabled else None
        self._copies: dict[str, PolicyCopy] = {**self._algorithm.copies, **({"ema": self._ema} if self._ema else {})}
        self._source = self._make_source(prompts, rewards, trained)
        self._update = PolicyUpdate(self._layout, self._algorithm, self._ema, accelerator, _schedule(config))
        self._held_out = HeldOut(
            config, accelerator, self._generator, self._encoder, judges, test_prompts, self._folder, self._averaged
        )
        self._cache_embeddings([*prompts, *test_prompts])
        self._epoch, self._minutes = 0, 0.0

    def run(self) -> None:
        """Train to the configured number of epochs, from the newest checkpoint if there is one."""
        self._resume()
        fingerprints = self._fingerprints()
        start_trackers(self._accelerator, self._config, self._folder, self._epoch, fingerprints)
        for name, fingerprint in fingerprints.items():
            self._accelerator.print(f"reward {name}: fingerprint {fingerprint}")
        self._held_out.evaluate(0, self._minutes)
        if self._epoch and self._held_out.is_due(self._epoch):  # the run may have been killed before, or in it
            self._held_out.evaluate(self._epoch, self._minutes)
        progress = tqdm(
            range(self._epoch, self._config.run.epochs),
            desc="training",
            unit="epoch",
            disable=not self._accelerator.is_main_process,
        )
        for epoch in progress:
            if self._held_out.patience_is_over(epoch):
                self._accelerator.print(f"stopped after {epoch} epochs: {self._held_out.standing(epoch)}")
                break
            with span("epoch", **{"assay.epoch": epoch + 1}):
                metrics = self._train_epoch(epoch)
            progress.set_postfix_str(_shown(metrics))
            self._save_and_evaluate()
        self._held_out.evaluate(self._epoch, self._minutes)
        self._held_out.close(self._epoch)

    def _claim_folder(self) -> None:
        """Refuse another run's folder before anything is loaded, on all processes alike: none waits for one that left.

        Raises:
            ConfigError: see `RunFolder.claim`; or the folder cannot be written.
        """
        error = None
        if self._accelerator.is_main_process:
            try:
                self._folder.claim(self._config)
            except (ConfigError, OSError) as found:
                error = str(found)
        if self._accelerator.num_processes > 1:
            error = broadcast_object_list([error])[0]
        if error is not None:
            raise ConfigError(error)

    def _make_source(
        self, prompts: list[PromptTask], rewards: RewardSet | None, trained: list[torch.nn.Parameter]
    ) -> BatchSource:
        config = self._config
        if config.data is not None:
            return DatasetSource(config, self._accelerator, self._generator, self._encoder, rewards)
        assert config.sampling is not None
        assert rewards is not None
        before_update = None
        if config.sampling.one_step_off_policy:
            before_update = self._copies["before_update"] = PolicyCopy(trained)
        return RolloutSource(
            config,
            self._accelerator,
            self._generator,
            self._encoder,
            rewards,
            prompts,
            self._algorithm,
            before_update,
        )

    def _train_epoch(self, epoch: int) -> dict[str, Any]:
        """All optimizer steps of an epoch; returns what is logged."""
        began = time.monotonic()
        sums, grad_norms, update_s = MetricSums(), [], 0.0
        for index, batches in enumerate(self._source.steps(epoch)):
            started = time.monotonic()
            own = MetricSums()
            with span("update"):
                norm = self._update.step(batches, own)
            if index > 0:
                own.maxima.clear()  # only the first step is on-policy: its ratios must be exactly 1
            sums.merge(own)
            grad_norms += [norm] if norm is not None and isfinite(norm) else []
            update_s += time.monotonic() - started
        self._epoch = epoch + 1
        self._algorithm.after_epoch(self._epoch)
        self._minutes += (time.monotonic() - began) / 60
        metrics = {
            "epoch": self._epoch,
            "minutes": self._minutes,
            "loss": float("nan"),
            **self._source.metrics(),
            **sums.gather(self._accelerator).means(),
            "grad_norm": float(np.mean(grad_norms)) if grad_norms else float("nan"),
            "global_step": self._update.global_step,
            "update_s": update_s,
        }
        if self._accelerator.is_main_process:
            self._folder.append_metrics({**metrics, "fingerprints": self._fingerprints()})
        numbers = {f"train/{key}": value for key, value in metrics.items() if key != "epoch"}
        self._accelerator.log(numbers, step=self._epoch)
        return metrics

    def _save_and_evaluate(self) -> None:
        """What is due after this epoch. The checkpoint comes first: an evaluation that fails loses no training."""
        last = self._epoch == self._config.run.epochs
        due = self._held_out.is_due(self._epoch)
        if last or due or self._epoch % self._config.run.save_every_epochs == 0:
            self._save()
        if due and not last:
            self._held_out.evaluate(self._epoch, self._minutes)

    def _save(self) -> None:
        """Checkpoint, and the LoRA (or the whole model) for use elsewhere."""
        # In plain data parallelism there is nothing to gather: the others need no copy in main memory.
        main = self._accelerator.is_main_process
        tensors = gather_tensors(self._layout, self._copies) if main or self._layout.in_step else {}
        if main:
            scaler = self._accelerator.scaler
            result = self._folder.root / self._generator.result
            self._generator.save_result(result, tensors["ema" if self._ema else "adapter"])
            if self._generator.result == "lora":
                self._write_needs(result)
            save_checkpoint(
                self._folder.checkpoints,
                epoch=self._epoch,
                tensors=tensors,
                state={
                    "global_step": self._update.global_step,
                    "minutes": self._minutes,
                    "fingerprints": self._fingerprints(),
                    "loss_scale": scaler.state_dict() if scaler is not None else None,
                },
                result=result,
            )
        self._accelerator.wait_for_everyone()

    def _write_needs(self, lora: Path) -> None:
        """Say beside the LoRA what it was trained on top of, where that is more than the model."""
        model = self._config.model
        if model.cold_start_lora:
            first = Path(model.cold_start_lora)
            needs = {"base": model.path, "fuse_first": str(first.absolute() if first.exists() else first)}
            write_whole(lora / NEEDS_FILE, json.dumps(needs, indent=1) + "\n")

    def _resume(self) -> None:
        """Take up the newest checkpoint, or start over where there is none."""
        folder = newest_checkpoint(self._folder.checkpoints)
        if folder is not None:
            tensors, state = load_checkpoint(folder)
            if state["fingerprints"] != self._fingerprints():
                raise FingerprintMismatchError(
                    f"the rewards have changed since {folder} was written: its fingerprints are "
                    f"{state['fingerprints']}, the services' are {self._fingerprints()}; "
                    "choose another run.output"
                )
            put_tensors(tensors, self._layout, self._copies)
            self._epoch, self._minutes = state["epoch"], state["minutes"]
            self._update.global_step = state["global_step"]
            if self._accelerator.scaler is not None:
                self._accelerator.scaler.load_state_dict(state["loss_scale"])
            self._accelerator.print(f"resuming after {self._epoch} epochs from {folder}")
        if self._accelerator.is_main_process:
            self._folder.forget_after(self._epoch)

    def _cache_embeddings(self, prompts: list[PromptTask]) -> None:
        """Encode all prompts before the run, each process its share, and free the encoders."""
        if self._config.model.embeddings_cache is None:
            return
        if isinstance(self._source, DatasetSource):
            prompts = [*prompts, *self._source.prompts]
        self._encoder.fill_folder(prompts, self._accelerator)
        self._generator.drop_text_encoders()

    def _amounts(self) -> str:
        """What the configuration amounts to on this model."""
        branch, processes = has_second_branch(self._generator), self._accelerator.num_processes
        epoch = arithmetic(self._config, processes, second_branch=branch)
        memory = memory_estimate(self._config, self._generator, processes)
        return "\n".join(str(line) for line in (epoch, memory, unmoved_average(self._config)) if line is not None)

    def _fingerprints(self) -> dict[str, str]:
        return {name: value for judge in self._judges for name, value in judge.fingerprints.items()}

    def _averaged(self) -> AbstractContextManager[None]:
        """Inside, the adapter holds its moving average, which is what is evaluated and saved."""
        return self._ema.in_place() if self._ema is not None else nullcontext()


def _shown(metrics: dict[str, Any]) -> str:
    """What the progress bar says."""
    names = {"reward_mean": "reward", "strict": "strict", "loss": "loss"}
    return ", ".join(f"{label} {metrics[name]:.3f}" for name, label in names.items() if name in metrics)


def _schedule(config: TrainConfig) -> LearningRateSchedule:
    num_steps = config.run.epochs * config.algorithm.optimizer_steps_per_epoch
    return LearningRateSchedule(config.optimizer.schedule, config.optimizer.warmup, num_steps)


def _load_generator(config: TrainConfig) -> OpenedPipeline:
    """In main memory, with what is trained set up: a LoRA, or all weights."""
    model = config.model
    kind = ShowoGenerator if isinstance(config.algorithm, MaskedTokensConfig) else TrainableGenerator
    generator: OpenedPipeline = load_trainable(
        model.path,
        kind,
        height=model.height,
        width=model.width,
        max_sequence_length=model.max_sequence_length,
        encoder_dtype=getattr(torch, model.encoder_dtype),
        autocast_dtype=AUTOCAST_DTYPES[config.run.mixed_precision],
        weights_dtype=getattr(torch, model.weights_dtype),
    )
    if model.cold_start_lora:
        generator.fuse_lora(model.cold_start_lora)
    if model.gradient_checkpointing:
        generator.enable_gradient_checkpointing()
    if model.compile:
        generator.compile()
    if model.train_all:
        assert isinstance(generator, ShowoGenerator)
        generator.train_all()
    else:
        generator.add_lora(model.lora_rank, model.lora_alpha, model.lora_targets)
    return generator
