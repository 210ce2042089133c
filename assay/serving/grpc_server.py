"""The gRPC door: contract, health and reflection on one port, tokens checked before anything else.

What a scorer or our own code raises never reaches a caller: they get INTERNAL and an id, the log keeps the rest.
"""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NoReturn, TypeVar

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from assay.errors import ConfigError
from assay.grpc_options import server_options
from assay.serving.auth import OPEN_GRPC_SERVICE, Authenticator
from assay.serving.rejection import Rejection
from assay.serving.service import ScoringService
from assay.serving.settings import ServeConfig, TlsConfig
from assay.v1 import reward_service_pb2 as pb
from assay.v1 import reward_service_pb2_grpc as pb_grpc
from assay.wire import status_to_proto

logger = logging.getLogger("assay.serving")

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


def internal_error(what: str) -> Rejection:
    """Log the exception being handled under a new id, and give what the caller may know of it."""
    error_id = uuid.uuid4().hex[:12]
    logger.exception("%s (error id %s)", what, error_id)
    return Rejection("INTERNAL", "INTERNAL_ERROR", f"internal error, id {error_id}", {"error_id": error_id})


async def abort(context: Any, rejection: Rejection) -> NoReturn:
    """End a call with the rejection's status, its details and, for gRPC's own retries, the delay."""
    status = status_to_proto(
        rejection.code, rejection.reason, rejection.message, rejection.metadata, rejection.retry_after_s
    )
    trailing: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", status.SerializeToString())]
    if rejection.retry_after_s is not None:
        trailing.append(("grpc-retry-pushback-ms", str(int(rejection.retry_after_s * 1000))))
    await context.abort(grpc.StatusCode[rejection.code], rejection.message, tuple(trailing))
    raise AssertionError("abort returned")


class TokenInterceptor(aio.ServerInterceptor):  # type: ignore[type-arg]
    """Refuses calls without the token, whatever their method, health checks excepted."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        if handler_call_details.method.startswith(OPEN_GRPC_SERVICE):
            return await continuation(handler_call_details)
        try:
            self._authenticator.check(dict(handler_call_details.invocation_metadata).get("authorization"))
        except Rejection as rejection:
            return _refusing_handler(rejection, await continuation(handler_call_details))
        return await continuation(handler_call_details)


def _refusing_handler(rejection: Rejection, handler: Any) -> Any:
    """A handler that aborts, of the same shape as the one it stands in for (None: there is no such method)."""

    async def refuse(request: Any, context: Any) -> None:
        await abort(context, rejection)

    async def refuse_stream(request: Any, context: Any) -> Any:
        await abort(context, rejection)
        yield None

    if handler is not None and handler.response_streaming:
        make = (
            grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
        )
        return make(refuse_stream)
    return grpc.unary_unary_rpc_method_handler(refuse)


class _Health(health.aio.HealthServicer):  # type: ignore[misc, name-defined]
    """Ends the streams of those who watch when the server stops; a drain would wait for them in vain."""

    def __init__(self) -> None:
        super().__init__()
        self.stopping = asyncio.Event()

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
        interceptors: Sequence[Any] = (),
    ) -> None:
        largest = max(info.limits.max_bytes_per_call for info in service.infos)
        self._server = aio.server(
            interceptors=[TokenInterceptor(authenticator), *interceptors],
            options=server_options(config.max_message_bytes or largest),
        )
        self._health = _Health()
        self._health_names = ["", SERVICE_NAME, *(info.name for info in service.infos)]
        pb_grpc.add_RewardServiceServicer_to_server(RewardServicer(service), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection([SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server)
        self.port = _bind(self._server, config)

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


def _bind(server: aio.Server, config: ServeConfig) -> int:
    host = f"[{config.host}]" if ":" in config.host else config.host
    address = f"{host}:{config.grpc_port}"
    try:
        if config.tls is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, _credentials(config.tls))
    except RuntimeError as error:
        message = f"cannot listen on {address}: the port is taken, or the host is not one of this machine"
        raise ConfigError(message, reason="PORT_UNAVAILABLE") from error


def _credentials(tls: TlsConfig) -> grpc.ServerCredentials:
    try:
        key, certificate = tls.key.read_bytes(), tls.certificate.read_bytes()
        client_ca = tls.client_ca.read_bytes() if tls.client_ca is not None else None
    except OSError as error:
        raise ConfigError(f"tls: cannot read {error.filename}: {error.strerror}", reason="TLS_UNREADABLE") from error
    return grpc.ssl_server_credentials(
        [(key, certificate)], root_certificates=client_ca, require_client_auth=client_ca is not None
    )
