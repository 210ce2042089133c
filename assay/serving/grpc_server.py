"""The gRPC door: contract, health and reflection on one port, tokens checked before anything else.

What a scorer or our own code raises never reaches a caller: they get INTERNAL and an id, the log keeps the rest.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from assay.errors import ConfigError
from assay.grpc_options import server_options
from assay.serving.auth import Authenticator
from assay.serving.call_interceptor import CallInterceptor
from assay.serving.grpc_errors import abort, internal_error
from assay.serving.metrics import Metrics
from assay.serving.rejection import Rejection
from assay.serving.service import ScoringService
from assay.serving.settings import ServeConfig
from assay.serving.tls_files import TlsMaterial, grpc_credentials
from assay.v1 import reward_service_pb2 as pb
from assay.v1 import reward_service_pb2_grpc as pb_grpc
from assay.watched_files import WatchedFiles

T = TypeVar("T")
SERVICE_NAME: str = pb.DESCRIPTOR.services_by_name["RewardService"].full_name


class RewardServicer(pb_grpc.RewardServiceServicer):
    """Hands calls to the `ScoringService`."""

    def __init__(self, service: ScoringService) -> None:
        self._service = service

    async def Score(self, request: pb.ScoreRequest, context: Any) -> pb.ScoreResponse:
        return await answer(context, self._service.score(request, context.time_remaining()))

    async def ListScorers(self, request: pb.ListScorersRequest, context: Any) -> pb.ListScorersResponse:
        async def listed() -> pb.ListScorersResponse:
            return self._service.list_scorers()

        return await answer(context, listed())


async def answer(context: Any, work: Awaitable[T]) -> T:
    """Await `work`; end the call with a status of AIP-193 if it is refused or fails."""
    try:
        return await work
    except Rejection as rejection:
        await abort(context, rejection)
    except Exception:  # the RPC edge
        await abort(context, internal_error("a call failed"))


class _Health(health.aio.HealthServicer):  # type: ignore[misc, name-defined]
    """Ends the streams of those who watch when the server stops; a drain would wait for them in vain."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self._names = names
        self.stopping = asyncio.Event()

    async def List(self, request: Any, context: Any) -> Any:
        """What the library leaves out."""
        asked = {name: health_pb2.HealthCheckRequest(service=name) for name in self._names}
        checked = {name: await self.Check(question, context) for name, question in asked.items()}
        return health_pb2.HealthListResponse(statuses=checked)

    async def Watch(self, request: Any, context: Any) -> None:
        watching = asyncio.create_task(super().Watch(request, context))
        stopping = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait({watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            watching.cancel()
            stopping.cancel()


class GrpcServer:
    """Listens on one port.

    `mark_serving` and `mark_not_serving` set what health checks see: overall (""), for the service, and by scorer.
    """

    def __init__(
        self,
        service: ScoringService,
        authenticator: Authenticator,
        config: ServeConfig,
        tls: WatchedFiles[TlsMaterial] | None = None,
        interceptors: Sequence[Any] = (),
    ) -> None:
        largest = max(info.limits.max_bytes_per_call for info in service.infos)
        self._server = aio.server(
            interceptors=[CallInterceptor(authenticator), *interceptors],
            options=server_options(config.max_message_bytes or largest),
        )
        self._health_names = ["", SERVICE_NAME, *(info.name for info in service.infos)]
        self._health = _Health(self._health_names)
        pb_grpc.add_RewardServiceServicer_to_server(RewardServicer(service), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection([SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server)
        self.port = _bind(self._server, config, tls, service.metrics)

    async def start(self) -> None:
        await self.mark_not_serving()
        await self._server.start()

    async def mark_serving(self) -> None:
        for name in self._health_names:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def mark_not_serving(self) -> None:
        for name in self._health_names:
            await self._health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)

    async def stop(self, grace_s: float | None) -> None:
        """Refuse new calls (UNAVAILABLE), let those under way end for `grace_s`, then cancel them."""
        self._health.stopping.set()
        await self._server.stop(grace_s)


def _bind(server: aio.Server, config: ServeConfig, tls: WatchedFiles[TlsMaterial] | None, metrics: Metrics) -> int:
    host = f"[{config.host}]" if ":" in config.host else config.host
    address = f"{host}:{config.grpc_port}"
    try:
        if tls is None or config.tls is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, grpc_credentials(tls, config.tls.client_ca is not None, metrics))
    except RuntimeError as error:
        message = f"cannot listen on {address}: the port is taken, or the host is not one of this machine"
        raise ConfigError(message, reason="PORT_UNAVAILABLE") from error
