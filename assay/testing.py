"""For tests, ours and yours: a reward service inside the test's process, and a fault injector to put before it.

    with serve_in_background([MyScorer()]) as server, RewardClient([server.target]) as client:
        ...

It is the real server on a real socket; only the process boundary is missing.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc import aio

from assay.background_loop import run_in_background
from assay.serving.lifecycle import RunningServer, ServeConfig
from assay.serving.scorer import Scorer


@dataclass
class FaultInjector:
    """Makes calls of `Score` fail, by chance from a seed, before or after the work is done.

    Args:
        seed: of the chances.
        request_lost: probability that a call is lost before the service sees it.
        reply_lost: probability that the work is done and its reply lost: proves that repeating is harmless.
        delayed: probability that a call waits for `delay_s` first.
        aborted: probability that a call ends with `abort_code`.
        faults: how many calls may fail at most; None: no bound.
    """

    seed: int = 0
    request_lost: float = 0.0
    reply_lost: float = 0.0
    delayed: float = 0.0
    delay_s: float = 0.05
    aborted: float = 0.0
    abort_code: grpc.StatusCode = grpc.StatusCode.INTERNAL
    faults: int | None = None
    #: what was injected, and the `calls` that came in.
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    async def around(self, work: Callable[[], Awaitable[Any]], context: Any) -> Any:
        """Run `work`, or some of it."""
        self.counts["calls"] += 1
        if self._happens("delayed"):
            await asyncio.sleep(self.delay_s)
        if self._happens("request_lost"):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "injected: request lost")
        if self._happens("aborted"):
            await context.abort(self.abort_code, "injected: aborted")
        response = await work()
        if self._happens("reply_lost"):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "injected: reply lost")
        return response

    def _happens(self, fault: str) -> bool:
        # Drawn whether or not it may happen, so that the sequence depends on the seed alone.
        drawn = self._random.random() < getattr(self, fault)
        if not drawn or (self.faults is not None and sum(self.counts.values()) - self.counts["calls"] >= self.faults):
            return False
        self.counts[fault] += 1
        return True


class _FaultInterceptor(aio.ServerInterceptor):  # type: ignore[type-arg]
    def __init__(self, injector: FaultInjector) -> None:
        self._injector = injector

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if not handler_call_details.method.endswith("/Score"):
            return handler

        async def with_faults(request: Any, context: Any) -> Any:
            return await self._injector.around(lambda: handler.unary_unary(request, context), context)

        return grpc.unary_unary_rpc_method_handler(
            with_faults, handler.request_deserializer, handler.response_serializer
        )


class BackgroundServer:
    """A server in this process. `target` is what clients call."""

    def __init__(self, server: RunningServer) -> None:
        self._server = server
        self.service = server.service
        self.target = server.grpc_address
        self.http_url = None if server.http_address is None else f"http://{server.http_address}"

    def drain(self) -> None:
        """What SIGTERM does; returns when the last call has ended."""
        run_in_background(self._server.drain()).result()

    def stop(self, grace_s: float | None = 0.0) -> None:
        run_in_background(self._server.stop(grace_s)).result()


@contextmanager
def serve_in_background(
    scorers: Sequence[Scorer], *, faults: FaultInjector | None = None, **config: Any
) -> Iterator[BackgroundServer]:
    """Serve on a free port of the loopback until the `with` ends.

    Args:
        scorers: what to serve.
        faults: put before every call of `Score`.
        config: fields of `ServeConfig`; no HTTP unless `http_port` is given.
    """
    settings = ServeConfig.model_validate({"grpc_port": 0, "http_port": None, "drain_notice_s": 0.0, **config})

    async def start() -> RunningServer:
        interceptors = [_FaultInterceptor(faults)] if faults is not None else []
        server = RunningServer(scorers, settings, interceptors)
        try:
            await server.start()
        except BaseException:
            await server.stop(None)
            raise
        return server

    server = BackgroundServer(run_in_background(start()).result())
    try:
        yield server
    finally:
        server.stop()
