"""A scorer of a server with its queue: what waits there, and what becomes of it."""

import asyncio
import heapq
import logging
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from assay.errors import ConfigError
from assay.outcomes import Outcome
from assay.serving.scorer import Sample, Scorer, ScorerInfo
from assay.serving.service_time import ServiceTime
from assay.serving.settings import ServeConfig

logger = logging.getLogger("assay.serving")


@dataclass(frozen=True)
class BatchResult:
    """What one item got, and where its time went. `batch_items` is 0 where it was in no batch: its score was known.

    Args:
        spared: the model was not given the item; its score was known, or it is that of an equal item of the batch.
    """

    outcome: Outcome
    queue_ns: int
    infer_ns: int
    batch_items: int
    started_ns: int
    model_started_ns: int
    model_ended_ns: int
    spared: bool = False


@dataclass(eq=False)
class Entry:
    """One item in the queue.

    Args:
        deadline_s: on the monotonic clock.
        key: what its score is kept under (`assay.serving.outcome_cache`); None if it is not to be kept.
        twins: equal items, of this call or of others, that get what it gets.
    """

    sample: Sample
    pixels: int
    deadline_s: float
    queued_ns: int
    request_id: str
    key: bytes | None
    future: "asyncio.Future[BatchResult]"
    twins: list["Entry"] = field(default_factory=list)


@dataclass(eq=False)
class ScorerHost:
    """A scorer with its queue. `keeps_scores`: what it scored once it is not asked again, as long as there is room."""

    scorer: Scorer
    info: ScorerInfo
    pixel_budget: int
    max_batch_items: int
    keeps_scores: bool = False
    ready: bool = False
    service_time: ServiceTime = field(default_factory=ServiceTime)
    queue: list[tuple[int, int, Entry]] = field(default_factory=list)
    queued_pixels: int = 0

    def push(self, priority: int, sequence: int, entry: Entry) -> None:
        """Queue an entry: the lowest priority number goes first, then the lowest sequence number."""
        heapq.heappush(self.queue, (priority, sequence, entry))
        self.queued_pixels += entry.pixels

    def pop(self) -> Entry:
        """Take the first entry out."""
        entry = heapq.heappop(self.queue)[2]
        self.queued_pixels -= entry.pixels
        return entry

    def lower_budget(self, failed_pixels: int) -> None:
        """To half of a batch that did not fit in memory."""
        self.pixel_budget = max(1, min(self.pixel_budget, failed_pixels // 2))

    def estimate_s(self, extra_items: int = 0, extra_pixels: int = 0) -> float:
        """Seconds that the queue, and what is to join it, will take."""
        items, pixels = len(self.queue) + extra_items, self.queued_pixels + extra_pixels
        batches = max(math.ceil(items / self.max_batch_items), math.ceil(pixels / self.pixel_budget))
        return self.service_time.estimate_s(items, batches)


def make_hosts(scorers: Sequence[Scorer], config: ServeConfig) -> dict[str, ScorerHost]:
    """A host for each scorer, by name.

    Raises:
        ConfigError: there is none, two have one name, or scores are to be kept and no scorer is deterministic.
    """
    hosts: dict[str, ScorerHost] = {}
    for scorer in scorers:
        info = scorer.info
        if info.name in hosts:
            raise ConfigError(f"two scorers are named {info.name!r}", reason="SCORER_NAME_TAKEN")
        keeps_scores = info.deterministic and config.max_cache_bytes > 0
        hosts[info.name] = ScorerHost(scorer, info, config.max_batch_pixels, config.max_batch_items, keeps_scores)
    if not hosts:
        raise ConfigError("there is no scorer to serve", reason="NO_SCORERS")
    if config.max_cache_bytes:
        _check_cache(hosts.values(), config.max_cache_bytes)
    return hosts


def _check_cache(hosts: Collection[ScorerHost], max_bytes: int) -> None:
    others = ", ".join(host.info.name for host in hosts if not host.keeps_scores)
    if not any(host.keeps_scores for host in hosts):
        message = f"max_cache_bytes = {max_bytes}: only deterministic scorers' scores are kept, and {others} is not one"
        raise ConfigError(f"{message}; leave it out", reason="CACHE_USELESS")
    if others:
        logger.warning("scores of %s are not kept: it is not deterministic", others)
