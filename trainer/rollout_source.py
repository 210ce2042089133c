"""Batches from rollouts: sample an epoch, have it scored meanwhile, and turn rewards into advantages.

With rewards normalised within groups, an optimizer step waits for the rewards of its own samples alone: those of the
later ones come in while it updates. With `sampling.one_step_off_policy` the next epoch is sampled before this one is
trained on, so that no step waits; its samples are then those of the policy before this epoch's update.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from accelerate import Accelerator

from assay.errors import ScoringFailedError
from assay.outcomes import Failed
from assay.rewards import RewardSet
from assay.tracing import span
from generators.opened import OpenedPipeline
from trainer.algorithms.algorithm import Algorithm, TrainingBatch
from trainer.config import TrainConfig
from trainer.embeddings_cache import PromptEncoder
from trainer.policy_copy import PolicyCopy
from trainer.prompts import PromptTask, draw_epoch
from trainer.reward_calls import RewardCalls
from trainer.reward_table import RewardTable
from trainer.rollout import Rollout, collect, process_share

_Steps = list[list[Rollout]]


class RolloutSource:
    """Rollouts of the policy that the algorithm samples with.

    Args:
        config: the whole configuration, with `sampling`.
        accelerator: processes.
        generator: what samples.
        encoder: its prompts.
        rewards: the services.
        prompts: what is trained on.
        algorithm: plans noise, and makes batches.
        before_update: a copy of the policy, where rollouts are one step off-policy: what an interrupted run needs to
            sample again what was under way.
    """

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        generator: OpenedPipeline,
        encoder: PromptEncoder,
        rewards: RewardSet,
        prompts: list[PromptTask],
        algorithm: Algorithm,
        before_update: PolicyCopy | None,
    ) -> None:
        assert config.sampling is not None
        self._config, self._sampling, self._accelerator = config, config.sampling, accelerator
        self._generator, self._encoder, self._rewards = generator, encoder, rewards
        self._prompts, self._algorithm, self._before_update = prompts, algorithm, before_update
        self._ahead: tuple[int, _Steps] | None = None
        self._tables: list[RewardTable] = []
        self._failures: list[tuple[str, Failed]] = []
        self._calls = RewardCalls()
        self._seconds = {"sample_s": 0.0, "reward_wait_s": 0.0}

    def steps(self, epoch: int) -> Iterator[list[TrainingBatch]]:
        """Batches of each optimizer step.

        Raises:
            ScoringFailedError: no image of the epoch, on any process, has a score: there was nothing to learn from.
        """
        self._tables, self._failures, self._seconds = [], [], dict.fromkeys(self._seconds, 0.0)
        sampled = self._timed("sample_s", lambda: self._take(epoch))
        if self._config.advantages.are_of_groups:
            for step in sampled:
                yield self._batches([step])[0]
        else:
            yield from self._batches(sampled)
        if not any(table.valid.any() for table in self._tables):
            raise _nothing_scored(epoch + 1, self._failures)

    def metrics(self) -> dict[str, Any]:
        return {
            **RewardTable.concatenate(self._tables).metrics(self._config.advantages, self._config.rewards),
            **self._seconds,
            **self._calls.metrics(self._accelerator),
        }

    def _take(self, epoch: int) -> _Steps:
        """The epoch's rollouts, and, off-policy, the next one's put aside."""
        if self._before_update is None:
            return self._collect(epoch, self._algorithm.behaviour())
        if self._ahead is None or self._ahead[0] != epoch:  # the run starts, or goes on
            policy = self._before_update.in_place() if epoch else self._algorithm.behaviour()
            self._ahead = epoch, self._collect(epoch, policy)
        current = self._ahead[1]
        if epoch + 1 < self._config.run.epochs:
            self._ahead = epoch + 1, self._collect(epoch + 1, self._algorithm.behaviour())
        with self._algorithm.behaviour():
            self._before_update.follow(0.0)
        return current

    def _collect(self, epoch: int, policy: AbstractContextManager[None]) -> _Steps:
        """This process's rollouts under a policy, one list for each optimizer step."""
        sampling = self._sampling
        samples = draw_epoch(
            self._prompts,
            epoch=epoch,
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
        with policy:
            return [list(self._sample(share)) for share in shares]

    def _sample(self, share: Sequence[Any]) -> Iterator[Rollout]:
        return collect(
            self._generator,
            self._encoder,
            self._rewards,
            share,
            self._sampling,
            lambda chunk: self._algorithm.plan(chunk, self._sampling.num_steps),
        )

    def _batches(self, steps: _Steps) -> list[list[TrainingBatch]]:
        """Wait for the rewards of some optimizer steps' rollouts, and make their batches."""
        rollouts = [rollout for step in steps for rollout in step]
        scores = self._timed("reward_wait_s", lambda: [rollout.rewards.result() for rollout in rollouts])
        for score in scores:
            self._calls.add(score)
        groups = [sample.group for rollout in rollouts for sample in rollout.samples]
        names = [reward.name for reward in self._config.rewards]
        table = RewardTable.gather(self._accelerator, groups, scores, names)
        self._tables.append(table)
        self._failures += [(name, failed) for score in scores for _, name, failed in score.failures]
        advantages, offset, batches = table.own_advantages(self._config.advantages, self._config.rewards), 0, []
        for step in steps:
            size = sum(len(rollout.samples) for rollout in step)
            batches.append(self._algorithm.batches(step, advantages[offset : offset + size]))
            offset += size
        return batches

    def _timed(self, name: str, work: Callable[[], Any]) -> Any:
        began = time.monotonic()
        with span(name.removesuffix("_s")):
            result = work()
        self._seconds[name] += time.monotonic() - began
        return result


def _nothing_scored(epoch: int, failures: Sequence[tuple[str, Failed]]) -> ScoringFailedError:
    """What to say of an epoch without any score, from this process's (reward name, failure)."""
    reasons = Counter((name, failed.code, failed.reason) for name, failed in failures)
    (commonest, number), *_ = reasons.most_common(1)
    message = next(own.message for name, own in failures if (name, own.code, own.reason) == commonest)
    name, code, reason = commonest
    return ScoringFailedError(
        f"no image of epoch {epoch} has a score, and every group is dropped; most often ({number} of {len(failures)} "
        f"failures) for reward {name!r}: {code} {reason}: {message}. When its service scores again, the same command "
        "goes on from the newest checkpoint",
        reason=reason,
    )
