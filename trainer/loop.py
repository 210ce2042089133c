"""The training loop: sample and score -> advantages -> update -> log -> checkpoint, and an evaluation before and after.

Runs on one process or several under `accelerate launch`; the trained adapter is small, so its gradients are summed over
the processes by hand, once before each optimizer step. The numbers do not depend on how samples are spread.
"""

import json
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray
from tqdm import tqdm

from assay.errors import ConfigError, FingerprintMismatchError
from assay.rewards import RewardSet
from generators.sd3 import SD3Generator
from trainer import report
from trainer.advantages import epoch_advantages
from trainer.algorithms.flow_grpo import FlowGrpoLoss, StepMetrics, trained_steps
from trainer.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from trainer.config import TrainConfig
from trainer.ema import Ema
from trainer.evaluation import Evaluation, evaluate
from trainer.prompts import draw_epoch, draw_evaluation, read_prompts, stable_seed
from trainer.rollout import MicroBatch, PromptEncoder, advantages_tensor, collect, process_share


class Trainer:
    """One run of Flow-GRPO.

    Args:
        config: the whole configuration.
        accelerator: device and processes.
        rewards: the services, already reachable.
    """

    def __init__(self, config: TrainConfig, accelerator: Accelerator, rewards: RewardSet) -> None:
        self._config, self._accelerator, self._rewards = config, accelerator, rewards
        self._train_prompts = read_prompts(config.prompts.train)
        test_prompts = read_prompts(config.prompts.test)
        self._held_out = draw_evaluation(test_prompts, number=config.evaluation.num_images, seed=config.evaluation.seed)
        self._output = config.run.output
        torch.manual_seed(config.run.seed)
        self._generator = _load_generator(config, accelerator)
        trained = self._generator.add_lora(config.model.lora_rank, config.model.lora_alpha)
        self._parameters = {name: p for name, p in self._generator.transformer.named_parameters() if p.requires_grad}
        optimizer = torch.optim.AdamW(
            trained,
            lr=config.optimizer.learning_rate,
            betas=config.optimizer.betas,
            weight_decay=config.optimizer.weight_decay,
            eps=config.optimizer.epsilon,
        )
        self._optimizer = accelerator.prepare(optimizer)
        self._ema = Ema(trained, config.ema.decay, config.ema.every_steps) if config.ema.enabled else None
        self._encoder = PromptEncoder(self._generator)
        self._loss = FlowGrpoLoss(
            config.algorithm,
            self._generator,
            self._generator,
            guidance_scale=config.sampling.guidance_scale,
            noise_level=config.sampling.noise_level,
        )
        self._epoch, self._global_step, self._minutes = 0, 0, 0.0

    def run(self) -> None:
        """Train to the configured number of epochs, from the newest checkpoint if there is one; write the results."""
        self._resume()
        before = self._evaluate_once(0)
        latest = before
        progress = tqdm(
            total=self._config.run.epochs,
            initial=self._epoch,
            desc="training",
            unit="epoch",
            disable=not self._accelerator.is_main_process,
        )
        while self._epoch < self._config.run.epochs:
            began = time.monotonic()
            metrics = self._train_epoch()
            self._epoch += 1
            self._minutes += (time.monotonic() - began) / 60
            self._log({"epoch": self._epoch, "minutes": self._minutes, **metrics})
            progress.set_postfix_str(f"reward {metrics['reward_mean']:.3f}  strict {metrics['strict']:.3f}")
            progress.update()
            last = self._epoch == self._config.run.epochs
            every = self._config.evaluation.every_epochs
            if last or (every and self._epoch % every == 0):
                latest = self._evaluate_once(self._epoch)
            if last or self._epoch % self._config.run.save_every_epochs == 0:
                self._save()
        progress.close()
        if latest.epoch != self._epoch:
            latest = self._evaluate_once(self._epoch)
        self._finish(before, latest)

    def _train_epoch(self) -> dict[str, Any]:
        micro_batches, sample_s = self._collect()
        waited = time.monotonic()
        scores = [[batch.rewards.result() for batch in step] for step in micro_batches]
        wait_s = time.monotonic() - waited
        flat = [score for step in scores for score in step]
        totals = np.concatenate([score.totals for score in flat])
        valid = np.concatenate([score.valid for score in flat])
        mine = [sample for step in micro_batches for batch in step for sample in batch.samples]
        strict = (totals == 1).astype(np.float64)
        trained_on = strict if self._config.algorithm.strict_reward else totals
        advantages, stats = self._advantages(trained_on, np.array([sample.group for sample in mine]), valid)
        gathered = self._gather(np.stack([totals, strict, valid.astype(np.float64)], 1))
        usable = gathered[:, 2] == 1
        updated = time.monotonic()
        update = self._update(micro_batches, advantages)
        return {
            "reward_mean": float(gathered[usable, 0].mean()) if usable.any() else float("nan"),
            "strict": float(gathered[usable, 1].mean()) if usable.any() else float("nan"),
            "unscored": int((~usable).sum()),
            **stats,
            **update,
            "sample_s": sample_s,
            "reward_wait_s": wait_s,
            "update_s": time.monotonic() - updated,
        }

    def _collect(self) -> tuple[list[list[MicroBatch]], float]:
        """This process's micro-batches, one list for each optimizer step, and the seconds spent sampling."""
        sampling, began = self._config.sampling, time.monotonic()
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
        with self._accelerator.autocast():
            batches = [
                list(collect(self._generator, self._encoder, self._rewards, share, sampling)) for share in shares
            ]
        return batches, time.monotonic() - began

    def _advantages(
        self, rewards: NDArray[np.float64], groups: NDArray[np.int64], valid: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float64], dict[str, float]]:
        """Advantages of this process's samples, from the rewards of all; and how informative the groups were."""
        everyone = self._gather(np.stack([rewards, groups.astype(np.float64), valid.astype(np.float64)], 1))
        all_groups, all_valid = everyone[:, 1].astype(np.int64), everyone[:, 2] == 1
        advantages = epoch_advantages(
            everyone[:, 0], all_groups, all_valid, global_std=self._config.algorithm.global_std
        )
        dropped = np.unique(all_groups[~all_valid])
        kept_groups = [group for group in np.unique(all_groups) if group not in dropped]
        spreads = [everyone[all_groups == group, 0].std() for group in kept_groups]
        start = self._accelerator.process_index * len(rewards)
        return advantages[start : start + len(rewards)], {
            "groups_dropped": len(dropped),
            "zero_std_ratio": float(np.mean([spread == 0 for spread in spreads])) if spreads else float("nan"),
            "reward_std_mean": float(np.mean(spreads)) if spreads else float("nan"),
        }

    def _update(self, micro_batches: list[list[MicroBatch]], advantages: NDArray[np.float64]) -> dict[str, float]:
        """All optimizer steps of the epoch."""
        metrics, first, grad_norms = StepMetrics(), StepMetrics(), []
        offset = 0
        for number, step in enumerate(micro_batches):
            size = sum(len(batch.samples) for batch in step)
            norm = self._optimizer_step(step, advantages[offset : offset + size], first if number == 0 else metrics)
            offset += size
            if norm is not None:
                grad_norms.append(norm)
        for name in vars(metrics):
            combine = max if name == "ratio_deviation" else float.__add__
            setattr(metrics, name, combine(getattr(metrics, name), getattr(first, name)))
        terms = max(metrics.number, 1.0)
        return {
            "loss": metrics.loss / terms,
            "policy_loss": metrics.policy_loss / terms,
            "kl": metrics.kl / terms,
            "approx_kl": metrics.approx_kl / terms,
            "clip_fraction": metrics.clip_fraction / terms,
            "ratio_mean": metrics.ratio / terms,
            "first_ratio_deviation": first.ratio_deviation,
            "grad_norm": float(np.mean(grad_norms)) if grad_norms else 0.0,
            "global_step": self._global_step,
        }

    def _optimizer_step(
        self, micro_batches: list[MicroBatch], advantages: NDArray[np.float64], metrics: StepMetrics
    ) -> float | None:
        """One step on the mean loss over all processes' samples that have an advantage; None if there are none."""
        kept = int(self._gather(np.array([[np.count_nonzero(advantages)]], dtype=np.float64)).sum())
        if kept == 0:
            return None
        offset = 0
        for batch in micro_batches:
            own = advantages[offset : offset + len(batch.samples)]
            offset += len(batch.samples)
            if np.any(own):
                self._backward(batch, advantages_tensor(own.tolist(), batch.trajectory.states), kept, metrics)
        self._sum_gradients()
        norm = self._accelerator.clip_grad_norm_(self._parameters.values(), self._config.optimizer.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        if self._ema is not None:
            self._ema.update(self._global_step)
        self._global_step += 1
        return float(norm)

    def _backward(self, batch: MicroBatch, advantages: torch.Tensor, kept: int, metrics: StepMetrics) -> None:
        seed = stable_seed("steps", self._config.run.seed, batch.samples[0].seed)
        steps = trained_steps(
            self._config.algorithm,
            self._config.sampling.num_steps,
            torch.Generator().manual_seed(seed),
            len(batch.samples),
        )
        with self._accelerator.autocast():
            losses = self._loss.per_step(
                batch.trajectory, batch.prompts, self._encoder.negative, advantages, steps, metrics
            )
            for loss in losses:
                self._accelerator.backward(loss / (kept * steps.shape[1]))

    def _sum_gradients(self) -> None:
        """Sum gradients over processes in one message; a process that had nothing to learn from contributes zeros."""
        parameters = list(self._parameters.values())
        if self._accelerator.num_processes == 1:
            return
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        summed = self._accelerator.reduce(torch.cat([grad.flatten() for grad in grads]), reduction="sum")
        for parameter, grad in zip(parameters, summed.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = grad.view_as(parameter)

    def _evaluate_once(self, epoch: int) -> Evaluation:
        """Evaluate, or read back what an interrupted run already evaluated at this epoch."""
        folder = self._output / "evaluations" / f"epoch-{epoch:06d}"
        if self._agreed((folder / "results.jsonl").exists()):
            return report.load_evaluation(folder, epoch)
        with self._averaged(), self._accelerator.autocast():
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
        if accuracy not in found.images[0].components:
            known = ", ".join(sorted(found.images[0].components))
            raise ConfigError(f"evaluation.accuracy = {accuracy!r} is no component of a reward; allowed: {known}")
        if self._accelerator.is_main_process:
            report.save_evaluation(found, folder)
            line = {"epoch": epoch, "minutes": self._minutes, "accuracy": found.mean(accuracy), "reward": found.total}
            self._append("evaluations.jsonl", line)
            self._accelerator.log({f"held_out/{name}": line[name] for name in ("accuracy", "reward")}, step=epoch)
            tqdm.write(f"held-out after {epoch} epochs: accuracy {line['accuracy']:.3f}, reward {line['reward']:.3f}")
        self._accelerator.wait_for_everyone()
        return found

    def _save(self) -> None:
        if self._accelerator.is_main_process:
            save_checkpoint(
                self._output / "checkpoints",
                epoch=self._epoch,
                parameters=self._parameters,
                optimizer=self._optimizer.optimizer,
                ema=self._ema,
                state={
                    "global_step": self._global_step,
                    "minutes": self._minutes,
                    "fingerprints": dict(self._rewards.fingerprints),
                },
            )
        self._accelerator.wait_for_everyone()

    def _resume(self) -> None:
        folder = newest_checkpoint(self._output / "checkpoints")
        if folder is None:
            return
        state = load_checkpoint(folder, parameters=self._parameters, optimizer=self._optimizer.optimizer, ema=self._ema)
        self._epoch, self._global_step, self._minutes = state["epoch"], state["global_step"], state["minutes"]
        if state["fingerprints"] != self._rewards.fingerprints:
            raise FingerprintMismatchError(
                f"the rewards have changed since {folder} was written: its fingerprints are {state['fingerprints']}, "
                f"the services' are {self._rewards.fingerprints}; start with another run.output"
            )
        if self._accelerator.is_main_process:
            _truncate(self._output / "metrics.jsonl", self._epoch)
            tqdm.write(f"resuming after {self._epoch} epochs from {folder}")

    def _finish(self, before: Evaluation, after: Evaluation) -> None:
        """Write LoRA, table, gallery and curve."""
        if self._accelerator.is_main_process:
            accuracy = self._config.evaluation.accuracy
            with self._averaged():
                self._generator.save_lora(self._output / "lora")
            table = report.comparison_table(before, after, accuracy)
            (self._output / "table.md").write_text(table + "\n")
            results = report.summary(before, after, accuracy)
            (self._output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
            report.save_gallery(before.images, after.images, accuracy, self._output / "gallery.png")
            metrics, evaluations = (_read_lines(self._output / name) for name in ("metrics.jsonl", "evaluations.jsonl"))
            report.save_curve(metrics, evaluations, self._output / "reward_curve.png")
            tqdm.write(f"\n{table}\n\nLoRA, gallery and curve are in {self._output}")
        self._accelerator.wait_for_everyone()

    def _log(self, metrics: dict[str, Any]) -> None:
        if self._accelerator.is_main_process:
            self._append("metrics.jsonl", metrics)
        numbers = {f"train/{key}": value for key, value in metrics.items() if key != "epoch"}
        self._accelerator.log(numbers, step=metrics["epoch"])

    def _append(self, name: str, line: dict[str, Any]) -> None:
        self._output.mkdir(parents=True, exist_ok=True)
        with (self._output / name).open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _averaged(self) -> AbstractContextManager[None]:
        """Inside, the adapter holds its moving average, which is what is evaluated and saved."""
        return self._ema.in_place() if self._ema is not None else nullcontext()

    def _gather(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows of all processes, in order of process."""
        if self._accelerator.num_processes == 1:
            return values
        tensor = torch.as_tensor(values, dtype=torch.float64, device=self._accelerator.device)
        gathered: NDArray[np.float64] = self._accelerator.gather(tensor).cpu().numpy()
        return gathered

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
    )
    if config.model.cold_start_lora:
        generator.fuse_lora(config.model.cold_start_lora)
    return generator


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def _truncate(path: Path, epoch: int) -> None:
    """Drop what was logged after the checkpoint: those epochs are trained again."""
    kept: Iterable[dict[str, Any]] = [line for line in _read_lines(path) if line["epoch"] <= epoch]
    if path.exists():
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))
