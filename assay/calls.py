"""The client's work on the background loop: divide items into calls, send each, retry elsewhere, gather outcomes.

Only UNAVAILABLE is retried, on the replica that is then the least busy, until the one deadline of the whole call.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Self

import grpc
from google.rpc import status_pb2  # type: ignore[import-untyped]
from grpc import aio

from assay import errors
from assay.byte_budget import ByteBudget
from assay.outcomes import Failed, Outcome
from assay.prepared import PreparedItem, divide
from assay.replicas import ChannelSecurity, Replica, choose
from assay.request_bytes import request_bytes
from assay.serving.scorer import ScorerInfo
from assay.v1 import reward_service_pb2 as pb
from assay.wire import PRIORITIES, error_info, info_from_proto, result_from_proto, retry_after_s

logger = logging.getLogger("assay.client")

_ERRORS: dict[grpc.StatusCode, type[errors.AssayError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequestError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.RequestTooLargeError,
    grpc.StatusCode.NOT_FOUND: errors.ScorerNotFoundError,
    grpc.StatusCode.UNAUTHENTICATED: errors.AuthenticationError,
    grpc.StatusCode.PERMISSION_DENIED: errors.AuthenticationError,
    grpc.StatusCode.FAILED_PRECONDITION: errors.FingerprintMismatchError,
    grpc.StatusCode.UNAVAILABLE: errors.ServiceUnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceededError,
}


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

    def __init__(self, replicas: list[Replica], budget: ByteBudget, batch_items: int, encoding: str) -> None:
        self._replicas = replicas
        self._budget = budget
        self._batch_items = batch_items
        self._encoding = encoding
        self._infos: dict[str, ScorerInfo] = {}

    @classmethod
    async def open(
        cls, targets: Sequence[str], security: ChannelSecurity, max_bytes: int, batch_items: int, encoding: str
    ) -> Self:
        """On the loop, for channels belong to the loop that makes them. Connects to nothing yet."""
        replicas = [Replica(target, security) for target in targets]
        return cls(replicas, ByteBudget(max_bytes), batch_items, encoding)

    async def close(self) -> None:
        await asyncio.gather(*(replica.close() for replica in self._replicas))

    async def list_scorers(self, deadline_s: float) -> list[ScorerInfo]:
        """Ask any replica; remembers the answer."""
        response = await self._call("ListScorers", pb.ListScorersRequest().SerializeToString(), deadline_s, pixels=0)
        infos = [info_from_proto(info) for info in response.scorers]
        self._infos = {info.name: info for info in infos}
        return infos

    async def score(
        self, items: list[PreparedItem], call: Call, on_outcome: Callable[[int, Outcome], None] | None = None
    ) -> list[Outcome]:
        """Outcomes of all items, in order; `on_outcome` is told each as it comes in."""
        if not items:
            return []
        limits = (await self._info(call)).limits
        outcomes: dict[int, Outcome] = {}

        def keep(index: int, outcome: Outcome) -> None:
            outcomes[index] = outcome
            if on_outcome is not None:
                on_outcome(index, outcome)

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
                targets=self._targets(),
            )
        return info

    async def _score_part(
        self,
        part: list[PreparedItem],
        call: Call,
        fingerprints: set[str],
        keep: Callable[[int, Outcome], None],
    ) -> None:
        async with self._budget.hold(sum(item.image_bytes for item in part)):
            request = await self._request(part, call)
            pixels = sum(item.pixels for item in part)
            response = await self._call("Score", request, call.deadline_s, pixels, call.limit_s)
        self._check_response(response, part, call, fingerprints)
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
                f"the service returned {len(response.results)} results for {len(part)} items", targets=self._targets()
            )
        fingerprints.add(response.scorer_fingerprint)
        if call.expected_fingerprint is not None:
            fingerprints.add(call.expected_fingerprint)
        if len(fingerprints) > 1:
            listed = ", ".join(sorted(fingerprints))
            raise errors.FingerprintMismatchError(
                f"scorer {call.scorer!r} at {self._where()} has several fingerprints: {listed}",
                reason="FINGERPRINT_MISMATCH",
                targets=self._targets(),
            )

    async def _call(
        self, method: str, request: bytes, deadline_s: float, pixels: int, limit_s: float | None = None
    ) -> Any:
        """Call the least busy replica; on UNAVAILABLE the next, until the deadline."""
        last: aio.AioRpcError | None = None
        while True:
            replica, pause_s = choose(self._replicas)
            remaining_s = deadline_s - time.monotonic()
            if remaining_s <= pause_s:
                self._raise_late(last, limit_s)
            if pause_s > 0:
                await asyncio.sleep(pause_s)
                continue  # another replica may have become free, or less busy
            try:
                return await replica.call(method, request, remaining_s, pixels)
            except aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    self._raise(error, replica)
                logger.info("%s is unavailable, will retry: %s", replica.target, error.details())
                replica.rest(retry_after_s(_status(error)))
                last = error

    def _raise_late(self, last: aio.AioRpcError | None, limit_s: float | None) -> NoReturn:
        within = "" if limit_s is None else f" within {limit_s:g} s"
        if last is None:
            raise errors.DeadlineExceededError(
                f"no answer from {self._where()}{within}", reason="DEADLINE_EXCEEDED", targets=self._targets()
            )
        raise errors.ServiceUnavailableError(
            f"no replica of {self._where()} was available{within}: {last.details()}",
            reason=error_info(_status(last)).reason or "UNREACHABLE",
            targets=self._targets(),
        ) from last

    def _raise(self, error: aio.AioRpcError, replica: Replica) -> NoReturn:
        kind = _ERRORS.get(error.code(), errors.ServiceFailedError)
        reason = error_info(_status(error)).reason or error.code().name
        raise kind(f"{replica.target}: {error.details()}", reason=reason, targets=(replica.target,)) from error

    def _targets(self) -> tuple[str, ...]:
        return tuple(replica.target for replica in self._replicas)

    def _where(self) -> str:
        return ", ".join(self._targets())


async def _all_or_none(parts: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all at once. When one fails, cancel the others, wait until they are gone, and raise its error."""
    try:
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(part)
    except* errors.AssayError as failures:
        raise failures.exceptions[0] from None


def _status(error: aio.AioRpcError) -> status_pb2.Status:
    """The rich status of an error; empty if it came from the network and not from a service."""
    status = status_pb2.Status()
    trailing: Iterable[Any] = error.trailing_metadata() or ()
    for key, value in trailing:
        if key == "grpc-status-details-bin":
            status.ParseFromString(value)
    return status


def _too_large(item: PreparedItem, limit: int) -> Failed:
    message = f"the item's images have {item.image_bytes} bytes; the service takes at most {limit} a call"
    return Failed("INVALID_ARGUMENT", "ITEM_TOO_LARGE", message)
