"""What every gRPC call passes before its handler: the token, then a name, an id and a span."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
from grpc import aio

from assay.serving.auth import OPEN_GRPC_METHODS, Authenticator
from assay.serving.current_call import answering, choose_request_id
from assay.serving.grpc_errors import abort
from assay.serving.open_calls import OpenCalls
from assay.serving.peers import address_of
from assay.serving.rejection import Rejection
from assay.tracing import server_span


class CallInterceptor(aio.ServerInterceptor):  # type: ignore[type-arg]
    """Refuses calls without a right token, whatever their method, health checks excepted: those it bounds."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        self._open_calls = OpenCalls()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if method in OPEN_GRPC_METHODS:
            return self._open_calls.bounded(handler)
        headers = {name: value for name, value in handler_call_details.invocation_metadata if isinstance(value, str)}
        try:
            holder = self._authenticator.identify(headers.get("authorization"))
        except Rejection as rejection:
            return self._refusing(rejection, handler, headers)
        if handler is None or handler.request_streaming or handler.response_streaming:
            return handler
        return _accompanied(handler, method, holder, headers)

    def _refusing(self, rejection: Rejection, handler: Any, headers: Mapping[str, str]) -> Any:
        """A handler that aborts in the place of another (None: there is no such method).

        It takes a stream, whatever the other takes: gRPC does not receive the message of a stranger before it is asked
        for, where it would receive that of a unary call whole. To the caller there is no difference.
        """

        async def refuse(messages: Any, context: Any) -> None:
            peer = address_of(context.peer())
            with answering(choose_request_id(headers.get("x-request-id")), peer):
                await abort(context, self._authenticator.count_failure(rejection, peer, "grpc"))

        if handler is not None and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(refuse)
        return grpc.stream_unary_rpc_method_handler(refuse)


def _accompanied(handler: Any, method: str, holder: str, headers: Mapping[str, str]) -> Any:
    async def behaviour(request: Any, context: Any) -> Any:
        caller = holder or _subject(context) or address_of(context.peer())
        with (
            server_span(method.strip("/"), headers) as trace_id,
            answering(choose_request_id(headers.get("x-request-id"), trace_id), caller),
        ):
            return await handler.unary_unary(request, context)

    return grpc.unary_unary_rpc_method_handler(behaviour, handler.request_deserializer, handler.response_serializer)


def _subject(context: Any) -> str:
    """The common name of the client's certificate, if it had to show one."""
    names = context.auth_context().get("x509_common_name", [])
    return names[0].decode("utf-8", "replace") if names else ""
