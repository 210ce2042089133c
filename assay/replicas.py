"""One replica of a service as a client sees it: a channel, what is under way on it, and whether it is called at all.

One that is down is asked whether it lives (`ListScorers`: no work, and no score's call is risked) until it says so.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import grpc
from google.rpc import status_pb2  # type: ignore[import-untyped]
from grpc import aio

from assay import errors
from assay.channel_security import ChannelSecurity
from assay.circuit_breaker import UNANSWERED_CALLS, CircuitBreaker
from assay.statistics import ReplicaStatistics
from assay.tracing import inject
from assay.v1 import reward_service_pb2 as pb
from assay.wire import error_info, retry_after_s

logger = logging.getLogger("assay.client")

T = TypeVar("T")

_SERVICE = pb.DESCRIPTOR.services_by_name["RewardService"]
_NOTHING = pb.ListScorersRequest().SerializeToString()
_DOWN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

#: Of the time for which a replica may be silent, what passes before it is asked whether it lives.
QUIET_SHARE = 0.2
#: For so long calls that are under way may stay on a connection that is to be given up for a newer one.
LONGEST_CALL_S = 3600.0

_ERRORS: dict[grpc.StatusCode, type[errors.AssayError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequestError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.RequestTooLargeError,
    grpc.StatusCode.NOT_FOUND: errors.ScorerNotFoundError,
    grpc.StatusCode.UNAUTHENTICATED: errors.AuthenticationError,
    grpc.StatusCode.PERMISSION_DENIED: errors.AuthenticationError,
    grpc.StatusCode.FAILED_PRECONDITION: errors.FingerprintMismatchError,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceededError,
}


class ReplicaUnavailable(Exception):
    """The replica did not do the call; another may. Never leaves the client."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Address:
    """Where a replica is reached, and NAME:PORT if that is how it was found: by TLS it must prove to be NAME."""

    target: str
    authority: str | None = None


class Replica:
    """One replica. Lives on the background loop.

    Args:
        address: where it is.
        security: how to reach it.
        unresponsive_after_s: for how long it may be silent; in the last part of that it is asked whether it lives.
        on_recovery: called when it does after it was down.
    """

    def __init__(
        self, address: Address, security: ChannelSecurity, unresponsive_after_s: float, on_recovery: Callable[[], None]
    ) -> None:
        self.address = address
        self.target = address.target
        self.outstanding_pixels = 0
        self.breaker = CircuitBreaker()
        self.last_failure: ReplicaUnavailable | None = None
        self._calls = self._failures = 0
        self._quiet_s = QUIET_SHARE * unresponsive_after_s
        self._probe_timeout_s = unresponsive_after_s - self._quiet_s
        self._on_recovery = on_recovery
        self._last_answer_s = time.monotonic()
        self._under_way: set[aio.Call] = set()
        self._given_up: set[aio.Call] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._retiring: set[asyncio.Task[None]] = set()
        self._security = security
        self._connect()

    def _connect(self) -> None:
        self._channel, self._tls = self._security.open(self.address.target, self.address.authority)
        # Requests come as bytes (see `assay.request_bytes`), so the generated stub does not fit.
        self._methods = {
            name: self._channel.unary_unary(f"/{_SERVICE.full_name}/{name}", None, response.FromString)
            for name, response in (("Score", pb.ScoreResponse), ("ListScorers", pb.ListScorersResponse))
        }

    @property
    def statistics(self) -> ReplicaStatistics:
        return ReplicaStatistics(self._calls, self._failures, is_up=not self.breaker.is_open)

    @property
    def is_busy(self) -> bool:
        return bool(self._under_way)

    @contextmanager
    def carrying(self, pixels: int) -> Iterator[None]:
        """Count `pixels` as outstanding, from the choice of the replica on and not only from the call."""
        self.outstanding_pixels += pixels
        try:
            yield
        finally:
            self.outstanding_pixels -= pixels

    async def call(self, method: str, request: bytes, timeout_s: float) -> Any:
        """Call a method of the contract.

        Raises:
            ReplicaUnavailable: another replica may do it.
            AssayError: none would.
        """
        self._calls += 1
        if not self._under_way:
            self._last_answer_s = time.monotonic()  # nothing was asked of it until now
        shown = self._security.metadata()
        rpc: Any = self._methods[method](request, timeout=timeout_s, metadata=(*shown, *inject()))
        self._under_way.add(rpc)
        try:
            response = await rpc
        except aio.AioRpcError as error:
            self._raise(error, shown)
        except asyncio.CancelledError:
            self._raise_if_given_up(rpc)
            raise
        finally:
            self._under_way.discard(rpc)
            self._given_up.discard(rpc)
        self._last_answer_s = time.monotonic()
        self.breaker.answered()
        return response

    async def check(self) -> None:
        """Give up what is under way if it has long been silent and does not even say that it lives.

        Also while it gets no calls: copies that won elsewhere may be why, and what it still holds would wait for ever.
        """
        asked_s = time.monotonic()
        if not self._under_way or asked_s - self._last_answer_s < self._quiet_s:
            return
        if await self._probe() != grpc.StatusCode.DEADLINE_EXCEEDED:
            self._last_answer_s = time.monotonic()
        elif self._under_way and self._last_answer_s <= asked_s:
            self._give_up()

    def renew(self) -> None:
        """Connect anew if the files of TLS have changed; calls under way end where they are."""
        if self._security.tls is self._tls:
            return
        logger.info("%s is connected to anew, by the files of TLS as they are now", self.target)
        retiring = asyncio.get_running_loop().create_task(self._channel.close(LONGEST_CALL_S))
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)
        self._connect()

    def fail(self, failure: ReplicaUnavailable) -> None:
        """It is down: send it nothing until it says that it lives."""
        self._failures += 1
        self.last_failure = failure
        if not self.breaker.is_open:
            self.breaker.failed()
            self._spawn(self._recover())

    def unanswered(self) -> None:
        """A call to it ended without an answer from it."""
        was_open = self.breaker.is_open
        self.breaker.unanswered()
        if self.breaker.is_open and not was_open:
            message = f"{self.target} left {UNANSWERED_CALLS} calls in a row unanswered"
            logger.warning("%s; it gets none until it says that it lives", message)
            self.last_failure = ReplicaUnavailable(message, "UNANSWERED")
            self._spawn(self._recover())

    async def close(self, *, when_idle: bool = False) -> None:
        """Close the channels; `when_idle`: after the calls under way have ended."""
        while when_idle:
            await asyncio.sleep(0.1)  # first: a call may be about to start
            when_idle = self.is_busy
        for task in list(self._tasks):
            task.cancel()
        await self._channel.close(None)
        for rpc in list(self._under_way):
            rpc.cancel()
        # gRPC takes a channel that is closing for a closed one: it must come to its end, which now it does at once.
        await asyncio.gather(*self._retiring, return_exceptions=True)

    def _give_up(self) -> None:
        logger.warning("%s answers nothing; its %d calls go elsewhere", self.target, len(self._under_way))
        self.fail(self._silence())
        self._given_up |= self._under_way
        for rpc in list(self._under_way):
            rpc.cancel()

    async def _recover(self) -> None:
        while self.breaker.is_open:
            await asyncio.sleep(self.breaker.pause_s)
            if await self._probe() in _DOWN:
                self.breaker.probe_failed()
            else:
                self.breaker.close()
        self._on_recovery()

    async def _probe(self) -> grpc.StatusCode:
        """Ask whether it lives. Any answer of its own says so, a refusal too."""
        asking = self._spawn(self._ask())
        # gRPC's own timeout comes late where a connection is stuck in the midst of a large request.
        done, _ = await asyncio.wait({asking}, timeout=self._probe_timeout_s)
        if not done:
            asking.cancel()
            return grpc.StatusCode.DEADLINE_EXCEEDED
        return asking.result()

    async def _ask(self) -> grpc.StatusCode:
        shown = self._security.metadata()
        try:
            await self._methods["ListScorers"](_NOTHING, timeout=self._probe_timeout_s, metadata=shown)
        except aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    def _raise(self, error: aio.AioRpcError, shown: tuple[tuple[str, str], ...]) -> NoReturn:
        status = _status(error)
        reason = error_info(status).reason
        if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED and not reason:
            self.unanswered()
        elif reason or error.code() != grpc.StatusCode.UNAVAILABLE:
            self._last_answer_s = time.monotonic()
        if not (error.code() == grpc.StatusCode.UNAVAILABLE or _is_dropped(error, reason)):
            kind = _ERRORS.get(error.code(), errors.ServiceFailedError)
            if reason == "TOO_MANY_FAILED_ATTEMPTS":  # by its code it would be a call that is too large
                kind = errors.AuthenticationError
            if kind is errors.AuthenticationError and self._security.metadata(at_once=True) != shown:
                raise ReplicaUnavailable("the token was exchanged meanwhile", "TOKEN_EXCHANGED") from error
            message = f"{self.target}: {error.details()}"
            raise kind(message, reason=reason or error.code().name, targets=(self.target,)) from error
        failure = ReplicaUnavailable(error.details() or "", reason or "UNREACHABLE")
        asked_s = retry_after_s(status)
        if asked_s is None:
            self.fail(failure)
        else:
            self.breaker.rest(asked_s)
        logger.info("%s is unavailable, will retry: %s", self.target, failure)
        raise failure from error

    def _raise_if_given_up(self, rpc: aio.Call) -> None:
        """Cancelled here, in `check`, and not by the caller."""
        task = asyncio.current_task()
        if rpc in self._given_up and not (task and task.cancelling()):
            raise self._silence() from None

    def _silence(self) -> ReplicaUnavailable:
        return ReplicaUnavailable(f"{self.target} answers nothing", "UNRESPONSIVE")

    def _spawn(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _is_dropped(error: aio.AioRpcError, reason: str) -> bool:
    """Whether a server dropped the call unseen, as gRPC's do with calls that arrive in the moment of their stop.

    If we had cancelled the call, it would have raised CancelledError.
    """
    return bool(error.code() == grpc.StatusCode.CANCELLED and not reason)


def _status(error: aio.AioRpcError) -> status_pb2.Status:
    """The rich status of an error; empty if it came from the network and not from a service."""
    status = status_pb2.Status()
    trailing: Iterable[Any] = error.trailing_metadata() or ()
    for key, value in trailing:
        if key == "grpc-status-details-bin":
            status.ParseFromString(value)
    return status
