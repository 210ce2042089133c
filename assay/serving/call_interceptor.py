"""What every gRPC call passes before its handler: the token, then a name, an id and a span."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import unquote

import grpc
from grpc import aio

from assay.serving.auth import OPEN_GRPC_METHODS, Authenticator
from assay.serving.current_call import answering, choose_request_id
from assay.serving.grpc_errors import abort
from assay.serving.rejection import Rejection
from assay.tracing import server_span


class CallInterceptor(aio.ServerInterceptor):  # type: ignore[type-arg]
    """Refuses calls without a right token, whatever their method, health checks excepted."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if method in OPEN_GRPC_METHODS:
            return handler
        headers = {name: value for name, value in handler_call_details.invocation_metadata if isinstance(value, str)}
        try:
            holder = self._authenticator.identify(headers.get("authorization"))
        except Rejection as rejection:
            return self._refusing(rejection, handler, headers)
        if handler is None or handler.request_streaming or handler.response_streaming:
            return handler
        return _accompanied(handler, method, holder, headers)

    def _refusing(self, rejection: Rejection, handler: Any, headers: Mapping[str, str]) -> Any:
        """A handler that aborts, of the shape of the one it stands in for (None: there is no such method).

        It has no deserializer: what a stranger sends is not parsed.
        """

        async def refuse(request: Any, context: Any) -> None:
            peer = address_of(context.peer())
            with answering(choose_request_id(headers.get("x-request-id")), peer):
                await abort(context, self._authenticator.count_failure(rejection, peer, "grpc"))

        async def refuse_stream(request: Any, context: Any) -> Any:
            await refuse(request, context)
            yield None

        if handler is not None and handler.response_streaming:
            streaming = handler.request_streaming
            shapes = grpc.stream_stream_rpc_method_handler, grpc.unary_stream_rpc_method_handler
            return shapes[0 if streaming else 1](refuse_stream)
        return grpc.unary_unary_rpc_method_handler(refuse)


def _accompanied(handler: Any, method: str, holder: str, headers: Mapping[str, str]) -> Any:
    async def behaviour(request: Any, context: Any) -> Any:
        caller = holder or _subject(context) or address_of(context.peer())
        with (
            server_span(method.strip("/"), headers) as trace_id,
            answering(choose_request_id(headers.get("x-request-id"), trace_id), caller),
        ):
            return await handler.unary_unary(request, context)

    return grpc.unary_unary_rpc_method_handler(behaviour, handler.request_deserializer, handler.response_serializer)


def address_of(peer: str) -> str:
    """`ipv4:10.0.0.1:5000` -> `10.0.0.1`: without the port, which differs from connection to connection."""
    kind, _, rest = peer.partition(":")
    return unquote(rest).rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else peer


def _subject(context: Any) -> str:
    """The common name of the client's certificate, if it had to show one."""
    names = context.auth_context().get("x509_common_name", [])
    return names[0].decode("utf-8", "replace") if names else ""
