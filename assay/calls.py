"""The client's work on the background loop: divide items into calls, send each (`assay.attempts`), gather outcomes."""

import asyncio
import dataclasses
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from assay import errors
from assay.attempts import Attempt, Caller
from assay.byte_budget import ByteBudget
from assay.hedging import Hedging
from assay.outcomes import Failed, Outcome
from assay.prepared import PreparedItem, divide
from assay.replica_pool import ReplicaPool
from assay.request_bytes import request_bytes
from assay.serving.scorer import Limits, ScorerInfo
from assay.statistics import AnsweredCall, ClientStatistics
from assay.v1 import reward_service_pb2 as pb
from assay.wire import PRIORITIES, info_from_proto, result_from_proto

#: Reasons to refuse a call for its size: gRPC's own, and the service's.
_OVER_LIMITS = frozenset({"RESOURCE_EXHAUSTED", "TOO_MANY_ITEMS", "TOO_MANY_BYTES"})


@dataclass(frozen=True)
class Call:
    """What is common to all items of one `score`. `deadline_s` is on the monotonic clock, `limit_s` as asked for."""

    scorer: str
    deadline_s: float
    limit_s: float
    expected_fingerprint: str | None
    priority: str
    evidence: bool

    def __post_init__(self) -> None:
        if self.priority not in PRIORITIES:
            raise errors.InvalidRequestError(f"priority = {self.priority!r}: must be one of {', '.join(PRIORITIES)}")


class ServiceConnection:
    """The replicas of one service and what is known of its scorers. Lives on the background loop."""

    def __init__(
        self,
        pool: ReplicaPool,
        hedge_budget: float,
        max_bytes: int,
        batch_items: int,
        encoding: str,
        on_call: Callable[[AnsweredCall], None] | None,
    ) -> None:
        self._pool = pool
        self._caller = Caller(pool, Hedging(hedge_budget))
        self._budget = ByteBudget(max_bytes)
        self._batch_items = batch_items
        self._encoding = encoding
        self._on_call = on_call
        self._infos: dict[str, ScorerInfo] = {}

    async def close(self) -> None:
        await self._pool.close()

    async def statistics(self) -> ClientStatistics:
        return ClientStatistics(
            **dataclasses.asdict(self._caller.counts),
            replicas={replica.target: replica.statistics for replica in self._pool.replicas},
        )

    async def list_scorers(self, deadline_s: float) -> list[ScorerInfo]:
        """Ask any replica; remembers the answer."""
        response = await self._caller.call(
            Attempt("ListScorers", pb.ListScorersRequest().SerializeToString(), deadline_s)
        )
        infos = [info_from_proto(info) for info in response.scorers]
        self._infos = {info.name: info for info in infos}
        return infos

    async def score(
        self, items: list[PreparedItem], call: Call, on_outcome: Callable[[int, Outcome], None] | None = None
    ) -> list[Outcome]:
        """Outcomes of all items, in order; `on_outcome` is told each as it comes in."""
        if not items:
            return []
        outcomes: dict[int, Outcome] = {}

        def keep(index: int, outcome: Outcome) -> None:
            outcomes[index] = outcome
            if on_outcome is not None:
                on_outcome(index, outcome)

        limits = (await self._info(call)).limits
        if any(item.image_bytes > limits.max_bytes_per_call for item in items):
            limits = await self._limits_now(call)  # before one is refused here: the service may take more by now
        sendable = []
        for item in items:
            if item.image_bytes <= limits.max_bytes_per_call:
                sendable.append(item)
            else:
                keep(item.index, _too_large(item, limits.max_bytes_per_call))
        fingerprints: set[str] = set()
        parts = list(divide(sendable, self._batch_items, limits))
        if len(parts) == 1:
            await self._score_part(parts[0], call, fingerprints, keep)
        else:
            await _all_or_none(self._score_part(part, call, fingerprints, keep) for part in parts)
        return [outcomes[index] for index in range(len(items))]

    async def _info(self, call: Call) -> ScorerInfo:
        if call.scorer not in self._infos:
            await self.list_scorers(call.deadline_s)
        info = self._infos.get(call.scorer)
        if info is None:
            served = ", ".join(self._infos)
            raise errors.ScorerNotFoundError(
                f"no scorer {call.scorer!r} is served at {self._where()}; there are: {served}",
                reason="SCORER_NOT_FOUND",
                targets=self._pool.targets,
            )
        return info

    async def _limits_now(self, call: Call) -> Limits:
        await self.list_scorers(call.deadline_s)
        return (await self._info(call)).limits

    async def _score_part(
        self,
        part: list[PreparedItem],
        call: Call,
        fingerprints: set[str],
        keep: Callable[[int, Outcome], None],
    ) -> None:
        """One call; or several, if the replica turns out to take less than what the call was made for.

        It is halved, whatever limits the service tells now: that may be another replica's word.
        """
        try:
            await self._send(part, call, fingerprints, keep)
        except errors.InvalidRequestError as error:
            if error.reason not in _OVER_LIMITS:
                raise
            if len(part) > 1:
                self._infos.pop(call.scorer, None)  # out of date
                halves = part[: len(part) // 2], part[len(part) // 2 :]
                await _all_or_none(self._score_part(half, call, fingerprints, keep) for half in halves)
                return
            limits = await self._limits_now(call)
            if part[0].image_bytes <= limits.max_bytes_per_call:
                raise
            keep(part[0].index, _too_large(part[0], limits.max_bytes_per_call))

    async def _send(
        self, part: list[PreparedItem], call: Call, fingerprints: set[str], keep: Callable[[int, Outcome], None]
    ) -> None:
        async with self._budget.hold(sum(item.image_bytes for item in part)):
            request = await self._request(part, call)
            pixels = sum(item.pixels for item in part)
            attempt = Attempt("Score", request, call.deadline_s, pixels, call.scorer, call.limit_s)
            started_s = time.monotonic()
            response = await self._caller.call(attempt)
        self._check_response(response, part, call, fingerprints)
        if self._on_call is not None:
            self._on_call(_answered(response, time.monotonic() - started_s))
        for item, result in zip(part, response.results, strict=True):
            keep(item.index, result_from_proto(result))

    async def _request(self, part: list[PreparedItem], call: Call) -> bytes:
        header = pb.ScoreRequest(
            scorer=call.scorer,
            expected_fingerprint=call.expected_fingerprint,
            priority=PRIORITIES[call.priority],
            evidence_level=pb.EVIDENCE_LEVEL_FULL if call.evidence else pb.EVIDENCE_LEVEL_NONE,
        )
        if self._encoding == "rgb":
            return request_bytes(header, part, self._encoding)
        # Codecs take tens of milliseconds an image.
        return await asyncio.to_thread(request_bytes, header, part, self._encoding)

    def _check_response(
        self, response: pb.ScoreResponse, part: list[PreparedItem], call: Call, fingerprints: set[str]
    ) -> None:
        """One result for each item, and one fingerprint for the whole call, even if a replica was redeployed."""
        if len(response.results) != len(part):
            raise errors.ServiceFailedError(
                f"the service returned {len(response.results)} results for {len(part)} items",
                targets=self._pool.targets,
            )
        fingerprints.add(response.scorer_fingerprint)
        if (known := self._infos.get(call.scorer)) and known.fingerprint != response.scorer_fingerprint:
            del self._infos[call.scorer]  # another scorer may have other limits, too
        if call.expected_fingerprint is not None:
            fingerprints.add(call.expected_fingerprint)
        if len(fingerprints) > 1:
            listed = ", ".join(sorted(fingerprints))
            raise errors.FingerprintMismatchError(
                f"scorer {call.scorer!r} at {self._where()} has several fingerprints: {listed}",
                reason="FINGERPRINT_MISMATCH",
                targets=self._pool.targets,
            )

    def _where(self) -> str:
        return ", ".join(self._pool.targets)


async def _all_or_none(parts: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all at once. When one fails, cancel the others, wait until they are gone, and raise its error."""
    try:
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(part)
    except* errors.AssayError as failures:
        raise failures.exceptions[0] from None


def _answered(response: pb.ScoreResponse, seconds: float) -> AnsweredCall:
    timing = response.timing
    return AnsweredCall(
        seconds=seconds,
        images=len(response.results),
        queue_s=timing.queue_ns / 1e9,
        decode_s=timing.decode_ns / 1e9,
        infer_s=timing.infer_ns / 1e9,
        total_s=timing.total_ns / 1e9,
        batch_items=timing.batch_items,
    )


def _too_large(item: PreparedItem, limit: int) -> Failed:
    message = f"the item's images have {item.image_bytes} bytes; the service takes at most {limit} a call"
    return Failed("INVALID_ARGUMENT", "ITEM_TOO_LARGE", message)
