"""The held-out evaluations of a run: when they are due, what they say of it, the best so far, and when to stop."""

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from math import inf

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from assay.errors import ConfigError
from assay.files import write_whole
from assay.rewards import RewardSet
from assay.tracing import span
from generators.opened import OpenedPipeline
from trainer import report
from trainer.config import TrainConfig
from trainer.embeddings_cache import PromptEncoder
from trainer.evaluation import Evaluation, evaluate
from trainer.prompts import PromptTask, draw_evaluation
from trainer.run_folder import RunFolder


class HeldOut:
    """Evaluates, or does nothing where the configuration has no `evaluation`.

    Args:
        config: the whole configuration.
        accelerator: processes.
        generator: what is evaluated.
        encoder: its prompts.
        judges: the services, those of training first.
        prompts: held-out prompts.
        folder: the run's.
        averaged: inside, the weights that are evaluated are in place.
    """

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        generator: OpenedPipeline,
        encoder: PromptEncoder,
        judges: list[RewardSet],
        prompts: list[PromptTask],
        folder: RunFolder,
        averaged: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._config, self._accelerator, self._folder = config.evaluation, accelerator, folder
        self._generator, self._encoder, self._judges, self._averaged = generator, encoder, judges, averaged
        self._samples = (
            draw_evaluation(prompts, number=self._config.num_images, seed=self._config.seed) if self._config else []
        )
        self._before: Evaluation | None = None

    def is_due(self, epoch: int) -> bool:
        return self._config is not None and self._config.every_epochs > 0 and epoch % self._config.every_epochs == 0

    def evaluate(self, epoch: int, minutes: float) -> None:
        """Evaluate, or read back what an interrupted run evaluated at this epoch. Epoch 0 is the model alone."""
        if self._config is None:
            return
        if self._agreed(self._folder.has_evaluation(epoch)):
            found = self._folder.load_evaluation(epoch)
        else:
            weights = self._generator.without_adapter() if epoch == 0 else self._averaged()
            with span("evaluation", **{"assay.epoch": epoch}), weights:
                found = evaluate(
                    self._generator,
                    self._encoder,
                    self._judges,
                    self._samples,
                    self._config,
                    self._accelerator,
                    epoch,
                )
            self._check_accuracy(found)
            if self._accelerator.is_main_process:
                self._record(found, minutes)
        self._before = self._before or found
        if self._accelerator.is_main_process and epoch > 0:
            self._keep_best(epoch)
            self._report(found)
        self._accelerator.wait_for_everyone()

    def patience_is_over(self, epoch: int) -> bool:
        """Whether the last `patience` evaluations brought nothing better."""
        if self._config is None or self._config.patience is None:
            return False
        accuracies = [accuracy for _, accuracy in self._accuracies(epoch)]
        since_best = len(accuracies) - 1 - accuracies.index(max(accuracies)) if accuracies else 0
        return self._agreed(since_best >= self._config.patience)

    def standing(self, epoch: int) -> str:
        """The best evaluation so far, in words."""
        best, accuracy = max(self._accuracies(epoch), key=lambda pair: pair[1], default=(0, float("nan")))
        return f"best held-out accuracy {accuracy:.3f} after {best} epochs"

    def close(self, epoch: int) -> None:
        """Show the table of the run."""
        if self._config is None or not self._accelerator.is_main_process:
            return
        tqdm.write(f"\n{(self._folder.root / 'table.md').read_text()}" if epoch else "nothing was trained")
        trained = "LoRA" if self._generator.result == "lora" else "model"
        tqdm.write(f"{trained}, gallery, reward curve and table are in {self._folder.root}")

    def _accuracies(self, epoch: int) -> list[tuple[int, float]]:
        """(epoch, accuracy) of the evaluations up to `epoch` that have one: without a score there is none."""
        found = [(summary["epoch"], summary["accuracy"]) for summary in self._folder.evaluation_summaries()]
        return [(other, accuracy) for other, accuracy in found if other <= epoch and accuracy is not None]

    def _check_accuracy(self, found: Evaluation) -> None:
        assert self._config is not None
        known = {name for image in found.images for name in image.components}
        if found.unscored == len(found.images):
            raise ConfigError(f"evaluation: none of the {len(found.images)} held-out images has a score")
        if self._config.accuracy not in known:
            raise ConfigError(f"evaluation.accuracy is {self._config.accuracy!r}; allowed: {', '.join(sorted(known))}")

    def _record(self, found: Evaluation, minutes: float) -> None:
        assert self._config is not None
        accuracy = self._config.accuracy
        self._folder.save_evaluation(found, accuracy, minutes)
        numbers = {"accuracy": found.mean(accuracy), "reward": found.total, **found.rewards}
        self._accelerator.log({f"held_out/{name}": value for name, value in numbers.items()}, found.epoch)
        tqdm.write(
            f"held-out after {found.epoch} epochs: {accuracy} {found.mean(accuracy):.3f}, reward {found.total:.3f}"
        )

    def _keep_best(self, epoch: int) -> None:
        """Copy the checkpoint's LoRA or model, which holds the evaluated weights, if no earlier one was as good."""
        assert self._config is not None
        accuracies = dict(self._accuracies(epoch))
        earlier = [accuracy for other, accuracy in accuracies.items() if other < epoch]
        if not self._config.keep_best or epoch not in accuracies or accuracies[epoch] <= max(earlier, default=-inf):
            return
        best = self._folder.root / "best"
        partial, old = best.with_name(".best.partial"), best.with_name(".best.old")
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
        shutil.copytree(self._folder.checkpoints / f"epoch-{epoch:06d}" / self._generator.result, partial)
        write_whole(partial / "best.json", json.dumps({"epoch": epoch, "accuracy": accuracies[epoch]}) + "\n")
        if best.exists():
            best.rename(old)
        partial.rename(best)
        shutil.rmtree(old, ignore_errors=True)

    def _report(self, after: Evaluation) -> None:
        """Renew table, gallery and curves."""
        assert self._config is not None
        assert self._before is not None
        accuracy, root, before = self._config.accuracy, self._folder.root, self._before
        write_whole(root / "table.md", report.comparison_table(before, after, accuracy) + "\n")
        results = {"before": before.summary(accuracy), "after": after.summary(accuracy)}
        write_whole(root / "results.json", json.dumps(results, indent=1) + "\n")
        report.save_gallery(before.images, after.images, accuracy, root / "gallery.png")
        metrics = self._folder.metrics()
        report.save_curve(metrics, self._folder.evaluation_summaries(), root / "reward_curve.png")
        report.save_ratios(metrics, root / "ratios.png")

    def _agreed(self, value: bool) -> bool:
        """The main process's answer, on all processes."""
        return bool(broadcast_object_list([value])[0]) if self._accelerator.num_processes > 1 else value
