"""A weighted set of rewards for training: which scorers, what weight, and what to do when a score fails.

    rewards:
      - {name: counting, scorer: counting, targets: ["localhost:50051"], weight: 1.0, on_failure: drop_group}

The policies: `raise` stops with an error; `drop_group` gives NaN and marks the image invalid, for the trainer to drop
its whole group; `fill` puts in `fill_value`. Each use of the latter two is counted and logged. A service that cannot
be reached is not a failed score: it raises under every policy.
"""

import asyncio
import concurrent.futures
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from assay.background_loop import run_in_background
from assay.client import Priority, RewardClient, Tasks
from assay.config import ConfigModel
from assay.errors import ConfigError, FingerprintMismatchError, ScorerNotFoundError, ScoringFailedError
from assay.outcomes import Failed, Outcome, Scored
from assay.serving.scorer import ScorerInfo
from assay.statistics import ClientStatistics

logger = logging.getLogger("assay.rewards")

_ScorerKey = tuple[tuple[str, ...], str]


class RewardConfig(ConfigModel):
    """One reward.

    Args:
        name: name in logs and in `RewardBatch.components`.
        scorer: the scorer that judges.
        targets: addresses of its service's replicas.
        weight: factor in the total.
        component: use this component of the score instead of its value.
        fingerprint: the scorer's expected fingerprint; None pins the first one seen, for as long as the set lives.
        hedge_budget: as of `RewardClient`; rewards with the same targets share a client, so they agree on it.
        on_failure: what to do about an image without a score.
        fill_value: the number that `fill` puts in, before weighting; needed by `fill` and by nothing else.
    """

    name: str = Field(min_length=1)
    scorer: str = Field(min_length=1)
    targets: tuple[str, ...] = Field(min_length=1)
    weight: float = Field(default=1.0, allow_inf_nan=False)
    component: str | None = None
    fingerprint: str | None = None
    hedge_budget: float = Field(default=0.05, ge=0, le=1)
    on_failure: Literal["raise", "drop_group", "fill"] = "raise"
    fill_value: float | None = Field(default=None, allow_inf_nan=False)

    @model_validator(mode="after")
    def _fill_has_a_value(self) -> Self:
        if (self.on_failure == "fill") != (self.fill_value is not None):
            raise ValueError("fill_value goes with on_failure: fill, and only with it")
        return self


@dataclass
class RewardBatch:
    """Rewards of N images.

    Args:
        totals: (N,) weighted sums; NaN where `valid` is False.
        valid: (N,) False where a reward failed under `drop_group`.
        components: `NAME` and `NAME/COMPONENT` -> (N,) what was scored, unweighted; NaN where it failed.
        failures: (index, reward name, failure) of every failed score, whatever became of it.
        fills: how many failed scores were replaced by a `fill_value`.
        seconds: reward name -> from the images' submission to the last of their scores, retries included.
    """

    totals: NDArray[np.float64]
    valid: NDArray[np.bool_]
    components: dict[str, NDArray[np.float64]]
    failures: list[tuple[int, str, Failed]] = field(default_factory=list)
    fills: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


class RewardSet:
    """Scores images by several rewards at once. One call serves all rewards of the same scorer.

    Args:
        configs: the rewards; their names differ.
        token: bearer token for all services.
        client_options: further arguments of `RewardClient`, e.g. `deadline_s`, or `token_file` in place of `token`.
    """

    def __init__(self, configs: Sequence[RewardConfig], *, token: str | None = None, **client_options: Any) -> None:
        names = [config.name for config in configs]
        if not configs or len(set(names)) < len(names):
            raise ConfigError(f"rewards are named {names}: give at least one, and each a name of its own")
        self._configs = tuple(configs)
        self._clients = {
            targets: RewardClient(targets, token=token, **{"hedge_budget": budget, **client_options})
            for targets, budget in _hedge_budgets(configs).items()
        }
        self._fingerprints: dict[str, str] = {}
        #: (reward name, policy, reason) -> how often a score failed.
        self.failure_counts: Counter[tuple[str, str, str]] = Counter()

    @property
    def fingerprints(self) -> dict[str, str]:
        """Reward name -> the pinned fingerprint. Empty until a service was asked."""
        return dict(self._fingerprints)

    @property
    def statistics(self) -> dict[str, ClientStatistics]:
        """Targets, commas between -> what became of the calls to them."""
        return {",".join(targets): client.statistics for targets, client in self._clients.items()}

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait for every service, and pin the fingerprints.

        Raises:
            ServiceUnavailableError: a service was not ready in time.
            ScorerNotFoundError, FingerprintMismatchError: it does not serve what the configuration names.
        """
        for targets, client in self._clients.items():
            self._pin(targets, client.wait_until_ready(timeout_s))

    def submit(
        self,
        images: Sequence[Any],
        prompts: Sequence[str],
        tasks: Tasks,
        *,
        ids: Sequence[str] | None = None,
        priority: Priority = "training",
    ) -> "concurrent.futures.Future[RewardBatch]":
        """Start scoring and return at once; the first time, fingerprints are asked for before.

        The future raises what the client raises, and `ScoringFailedError`.
        """
        self._pin_all()
        started_s = time.monotonic()
        asked = {
            (config.targets, config.scorer): self._clients[config.targets].submit(
                images,
                scorer=config.scorer,
                prompts=prompts,
                tasks=tasks,
                ids=ids,
                expected_fingerprint=self._fingerprints[config.name],
                priority=priority,
            )
            for config in self._one_config_a_scorer()
        }
        return run_in_background(self._combine(asked, len(images), started_s))

    def score(self, images: Sequence[Any], prompts: Sequence[str], tasks: Tasks, **options: Any) -> RewardBatch:
        """Score and wait. Options as for `submit`."""
        future = self.submit(images, prompts, tasks, **options)
        try:
            return future.result()
        finally:
            future.cancel()

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _one_config_a_scorer(self) -> list[RewardConfig]:
        return list({(config.targets, config.scorer): config for config in self._configs}.values())

    def _pin_all(self) -> None:
        for targets, client in self._clients.items():
            if any(config.name not in self._fingerprints for config in self._configs if config.targets == targets):
                self._pin(targets, client.list_scorers())

    def _pin(self, targets: tuple[str, ...], infos: Sequence[ScorerInfo]) -> None:
        served = {info.name: info.fingerprint for info in infos}
        for config in self._configs:
            if config.targets != targets:
                continue
            if config.scorer not in served:
                raise ScorerNotFoundError(
                    f"reward {config.name!r}: no scorer {config.scorer!r} at {', '.join(targets)}; "
                    f"there are: {', '.join(served)}",
                    reason="SCORER_NOT_FOUND",
                    targets=targets,
                )
            actual = served[config.scorer]
            expected = self._fingerprints.get(config.name, config.fingerprint or actual)
            if actual != expected:
                raise FingerprintMismatchError(
                    f"reward {config.name!r}: scorer {config.scorer!r} at {', '.join(targets)} "
                    f"has fingerprint {actual}, expected was {expected}: its scores may differ",
                    reason="FINGERPRINT_MISMATCH",
                    targets=targets,
                )
            self._fingerprints[config.name] = expected

    async def _combine(
        self,
        asked: "Mapping[_ScorerKey, concurrent.futures.Future[list[Outcome]]]",
        num_images: int,
        started_s: float,
    ) -> RewardBatch:
        async def answer(future: "concurrent.futures.Future[list[Outcome]]") -> tuple[list[Outcome], float]:
            return await asyncio.wrap_future(future), time.monotonic() - started_s

        try:
            answers = await asyncio.gather(*(answer(future) for future in asked.values()))
        finally:
            for future in asked.values():  # when one reward fails, the others need not be scored
                future.cancel()
        outcomes = dict(zip(asked, answers, strict=True))
        batch = RewardBatch(totals=np.zeros(num_images), valid=np.ones(num_images, dtype=bool), components={})
        for config in self._configs:
            found, batch.seconds[config.name] = outcomes[config.targets, config.scorer]
            self._add(batch, config, found)
        batch.totals[~batch.valid] = np.nan
        return batch

    def _add(self, batch: RewardBatch, config: RewardConfig, outcomes: Sequence[Outcome]) -> None:
        """Add one reward to the totals, its failures treated by its policy."""
        column = np.full(len(outcomes), np.nan)
        batch.components[config.name] = column
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome, Scored):
                _keep_components(batch, config.name, index, outcome)
            value = _value(outcome, config)
            if isinstance(value, Failed):
                batch.totals[index] += self._after_failure(batch, config, index, value)
            else:
                column[index] = value
                batch.totals[index] += config.weight * value

    def _after_failure(self, batch: RewardBatch, config: RewardConfig, index: int, failure: Failed) -> float:
        """What a failed score adds to the total. The one place where that can be a number."""
        batch.failures.append((index, config.name, failure))
        self.failure_counts[config.name, config.on_failure, failure.reason] += 1
        described = f"reward {config.name!r} of image {index}: {failure.code} {failure.reason}: {failure.message}"
        if config.on_failure == "raise" or (config.on_failure == "fill" and config.fill_value is None):
            raise ScoringFailedError(described, reason=failure.reason, targets=config.targets)
        if config.on_failure == "drop_group":
            logger.warning("%s; its group is dropped", described)
            batch.valid[index] = False
            return 0.0
        logger.warning("%s; filled with %s", described, config.fill_value)
        batch.fills += 1
        return config.weight * (config.fill_value or 0.0)


def _hedge_budgets(configs: Sequence[RewardConfig]) -> dict[tuple[str, ...], float]:
    budgets: dict[tuple[str, ...], float] = {}
    for config in configs:
        if budgets.setdefault(config.targets, config.hedge_budget) != config.hedge_budget:
            raise ConfigError(
                f"reward {config.name!r}: hedge_budget = {config.hedge_budget}, "
                f"but {budgets[config.targets]} for another with the same targets"
            )
    return budgets


def _keep_components(batch: RewardBatch, name: str, index: int, outcome: Scored) -> None:
    for component, number in outcome.components.items():
        key = f"{name}/{component}"
        if key not in batch.components:
            batch.components[key] = np.full(len(batch.totals), np.nan)
        batch.components[key][index] = number


def _value(outcome: Outcome, config: RewardConfig) -> float | Failed:
    """The number that is this reward; a score without the wanted component is a failure, too."""
    if isinstance(outcome, Failed):
        return outcome
    if config.component is None:
        return outcome.value
    if config.component in outcome.components:
        return outcome.components[config.component]
    names = ", ".join(outcome.components) or "none"
    message = f"scorer {config.scorer!r} gave no component {config.component!r}; it gave: {names}"
    return Failed("FAILED_PRECONDITION", "COMPONENT_MISSING", message)
