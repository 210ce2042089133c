"""The training loop: sample and score -> advantages -> update -> log -> checkpoint, and an evaluation before and after.

Runs on one process or several under `accelerate launch` (data parallel; FSDP and DeepSpeed are not supported here).
"""

import json
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from assay.errors import ConfigError, FingerprintMismatchError
from assay.files import write_whole
from assay.rewards import RewardSet
from generators.sd3 import SD3Generator
from trainer import report
from trainer.algorithms.flow_grpo import FlowGrpoLoss
from trainer.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from trainer.config import TrainConfig
from trainer.ema import Ema
from trainer.evaluation import Evaluation, evaluate
from trainer.prompts import PromptTask, draw_epoch, draw_evaluation
from trainer.reward_table import RewardTable
from trainer.rollout import MicroBatch, PromptEncoder, collect, process_share
from trainer.run_folder import RunFolder
from trainer.update import PolicyUpdate

AUTOCAST_DTYPES = {"no": None, "fp16": torch.float16, "bf16": torch.bfloat16}


class Trainer:
    """One run of Flow-GRPO.

    Args:
        config: the whole configuration.
        accelerator: device and processes.
        rewards: the services, already reachable.
        train_prompts: what is trained on.
        test_prompts: what is evaluated on.
    """

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        rewards: RewardSet,
        train_prompts: list[PromptTask],
        test_prompts: list[PromptTask],
    ) -> None:
        self._config, self._accelerator, self._rewards = config, accelerator, rewards
        self._folder = RunFolder(config.run.output)
        self._train_prompts = train_prompts
        self._held_out = draw_evaluation(test_prompts, number=config.evaluation.num_images, seed=config.evaluation.seed)
        torch.manual_seed(config.run.seed)
        self._generator = _load_generator(config, accelerator)
        trained = self._generator.add_lora(config.model.lora_rank, config.model.lora_alpha)
        named = self._generator.transformer.named_parameters()
        self._parameters = {name: parameter for name, parameter in named if parameter.requires_grad}
        self._ema = Ema(trained, config.ema.decay, config.ema.every_steps) if config.ema.enabled else None
        self._encoder = PromptEncoder(self._generator, accelerator.device)
        loss = FlowGrpoLoss(
            config.algorithm,
            self._generator,
            guidance_scale=config.sampling.guidance_scale,
            noise_level=config.sampling.noise_level,
        )
        self._update = PolicyUpdate(
            config.algorithm,
            config.optimizer,
            self._parameters,
            loss,
            self._encoder,
            self._ema,
            accelerator,
            config.sampling.num_steps,
        )
        self._epoch, self._minutes = 0, 0.0

    def run(self) -> None:
        """Train to the configured number of epochs, from the newest checkpoint if there is one."""
        if self._accelerator.is_main_process:
            self._folder.claim(self._config)
        sampling, processes = self._config.sampling, self._accelerator.num_processes
        self._accelerator.print(
            f"{sampling.groups_per_epoch} groups of {sampling.group_size} images an epoch, "
            f"on {processes} process{'es' if processes > 1 else ''} ({self._accelerator.device.type})"
        )
        self._resume()
        trackers = {"tensorboard": {"purge_step": self._epoch + 1}}  # epochs that are trained again are shown once
        self._accelerator.init_trackers("assay", init_kwargs=trackers)
        before = self._evaluate(0)
        epochs = range(self._epoch, self._config.run.epochs)
        progress = tqdm(epochs, desc="training", unit="epoch", disable=not self._accelerator.is_main_process)
        for epoch in progress:
            began = time.monotonic()
            metrics = self._train_epoch()
            self._epoch = epoch + 1
            self._minutes += (time.monotonic() - began) / 60
            self._log({"epoch": self._epoch, "minutes": self._minutes, **metrics})
            progress.set_postfix_str(f"reward {metrics['reward_mean']:.3f}, strict {metrics['strict']:.3f}")
            self._save_and_evaluate(before)
        after = self._evaluate(self._epoch)
        if self._accelerator.is_main_process:
            self._report(before, after)
            tqdm.write(f"\n{report.comparison_table(before, after, self._config.evaluation.accuracy)}\n")
            tqdm.write(f"LoRA, gallery, reward curve and table are in {self._folder.root}")

    def _train_epoch(self) -> dict[str, Any]:
        """Sample, wait for the rewards that are still out, update."""
        algorithm = self._config.algorithm
        began = time.monotonic()
        steps = self._collect()
        sampled = time.monotonic()
        batches = [batch for step in steps for batch in step]
        scores = [batch.rewards.result() for batch in batches]
        scored = time.monotonic()
        names = [reward.name for reward in self._config.rewards]
        table = RewardTable.gather(self._accelerator, batches, scores, names)
        update = self._update.epoch(steps, table.own_advantages(algorithm))
        return {
            **table.metrics(algorithm),
            **update,
            "sample_s": sampled - began,
            "reward_wait_s": scored - sampled,
            "update_s": time.monotonic() - scored,
        }

    def _collect(self) -> list[list[MicroBatch]]:
        """This process's micro-batches, one list for each optimizer step."""
        sampling = self._config.sampling
        samples = draw_epoch(
            self._train_prompts,
            epoch=self._epoch,
            num_groups=sampling.groups_per_epoch,
            group_size=sampling.group_size,
            seed=self._config.run.seed,
        )
        shares = process_share(
            samples,
            process=self._accelerator.process_index,
            num_processes=self._accelerator.num_processes,
            optimizer_steps=self._config.algorithm.optimizer_steps_per_epoch,
        )
        return [list(collect(self._generator, self._encoder, self._rewards, share, sampling)) for share in shares]

    def _save_and_evaluate(self, before: Evaluation) -> None:
        """What is due after this epoch. The checkpoint comes first: an evaluation that fails loses no training."""
        last = self._epoch == self._config.run.epochs
        if last or self._epoch % self._config.run.save_every_epochs == 0:
            self._save()
        every = self._config.evaluation.every_epochs
        if every and self._epoch % every == 0 and not last:
            after = self._evaluate(self._epoch)
            if self._accelerator.is_main_process:
                self._report(before, after)

    def _evaluate(self, epoch: int) -> Evaluation:
        """Evaluate, or read back what an interrupted run evaluated at this epoch. Epoch 0 is the model alone."""
        if self._agreed(self._folder.has_evaluation(epoch)):
            return self._folder.load_evaluation(epoch)
        with self._generator.without_adapter() if epoch == 0 else self._averaged():
            found = evaluate(
                self._generator,
                self._encoder,
                self._rewards,
                self._held_out,
                self._config.evaluation,
                self._accelerator,
                epoch,
            )
        accuracy = self._config.evaluation.accuracy
        known = {name for image in found.images for name in image.components}
        if accuracy not in known:
            raise ConfigError(f"evaluation.accuracy is {accuracy!r}; allowed: {', '.join(sorted(known))}")
        if self._accelerator.is_main_process:
            self._folder.save_evaluation(found, accuracy, self._minutes)
            self._accelerator.log({"held_out/accuracy": found.mean(accuracy), "held_out/reward": found.total}, epoch)
            tqdm.write(
                f"held-out after {epoch} epochs: {accuracy} {found.mean(accuracy):.3f}, reward {found.total:.3f}"
            )
        self._accelerator.wait_for_everyone()
        return found

    def _save(self) -> None:
        """Checkpoint, and the LoRA for use elsewhere."""
        if self._accelerator.is_main_process:
            scaler = self._accelerator.scaler
            lora = self._folder.root / "lora"
            with self._averaged():
                self._generator.save_lora(lora)
            save_checkpoint(
                self._folder.checkpoints,
                epoch=self._epoch,
                parameters=self._parameters,
                optimizer=self._update.optimizer,
                ema=self._ema,
                state={
                    "global_step": self._update.global_step,
                    "minutes": self._minutes,
                    "fingerprints": self._rewards.fingerprints,
                    "loss_scale": scaler.state_dict() if scaler is not None else None,
                },
                lora=lora,
            )
        self._accelerator.wait_for_everyone()

    def _resume(self) -> None:
        """Take up the newest checkpoint, or start over where there is none."""
        folder = newest_checkpoint(self._folder.checkpoints)
        if folder is not None:
            state = load_checkpoint(
                folder, parameters=self._parameters, optimizer=self._update.optimizer, ema=self._ema
            )
            if state["fingerprints"] != self._rewards.fingerprints:
                raise FingerprintMismatchError(
                    f"the rewards have changed since {folder} was written: its fingerprints are "
                    f"{state['fingerprints']}, the services' are {self._rewards.fingerprints}; "
                    "choose another run.output"
                )
            self._epoch, self._minutes = state["epoch"], state["minutes"]
            self._update.global_step = state["global_step"]
            if self._accelerator.scaler is not None:
                self._accelerator.scaler.load_state_dict(state["loss_scale"])
            self._accelerator.print(f"resuming after {self._epoch} epochs from {folder}")
        if self._accelerator.is_main_process:
            self._folder.forget_after(self._epoch)

    def _report(self, before: Evaluation, after: Evaluation) -> None:
        """Renew table, gallery and curve."""
        accuracy, root = self._config.evaluation.accuracy, self._folder.root
        write_whole(root / "table.md", report.comparison_table(before, after, accuracy) + "\n")
        results = {"before": before.summary(accuracy), "after": after.summary(accuracy)}
        write_whole(root / "results.json", json.dumps(results, indent=1) + "\n")
        report.save_gallery(before.images, after.images, accuracy, root / "gallery.png")
        report.save_curve(self._folder.metrics(), self._folder.evaluation_summaries(), root / "reward_curve.png")

    def _log(self, metrics: dict[str, Any]) -> None:
        if self._accelerator.is_main_process:
            self._folder.append_metrics(metrics)
        numbers = {f"train/{key}": value for key, value in metrics.items() if key != "epoch"}
        self._accelerator.log(numbers, step=metrics["epoch"])

    def _averaged(self) -> AbstractContextManager[None]:
        """Inside, the adapter holds its moving average, which is what is evaluated and saved."""
        return self._ema.in_place() if self._ema is not None else nullcontext()

    def _agreed(self, value: bool) -> bool:
        """The main process's answer, on all processes."""
        return bool(broadcast_object_list([value])[0]) if self._accelerator.num_processes > 1 else value


def _load_generator(config: TrainConfig, accelerator: Accelerator) -> SD3Generator:
    generator = SD3Generator.from_pretrained(
        config.model.path,
        height=config.model.height,
        width=config.model.width,
        max_sequence_length=config.model.max_sequence_length,
        device=accelerator.device,
        encoder_dtype=getattr(torch, config.model.encoder_dtype),
        autocast_dtype=AUTOCAST_DTYPES[config.run.mixed_precision],
    )
    if config.model.cold_start_lora:
        generator.fuse_lora(config.model.cold_start_lora)
    return generator
