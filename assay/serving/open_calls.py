"""Calls that need no token: what a stranger may have the server hold for them.

gRPC receives the message of a unary call whole, up to the largest that it takes, before it asks the handler. So these
calls are taken as streams of one message, of which a few at a time are received from one address, in a bounded time.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from assay.serving.current_call import answering, choose_request_id
from assay.serving.grpc_errors import abort
from assay.serving.peers import address_of
from assay.serving.rejection import Rejection

#: Of one address: messages that are received at once, and calls under way (who watches health, stays).
MESSAGES_AT_ONCE, CALLS_AT_ONCE = 2, 64
#: What a question about health may take to arrive, and its size.
RECEIVE_S, MAX_BYTES = 5.0, 1024


@dataclass
class _Peer:
    """What one address has under way."""

    calls: int = 0
    receiving: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MESSAGES_AT_ONCE))


class OpenCalls:
    """Holds every address to the bounds. Lives on the server's loop."""

    def __init__(self) -> None:
        self._peers: dict[str, _Peer] = {}

    def bounded(self, handler: Any) -> Any:
        """A handler in the place of one that takes a single message."""

        async def answer(messages: Any, context: Any) -> Any:
            return await self._answer(handler.unary_stream or handler.unary_unary, context)

        shapes = grpc.stream_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
        return shapes[handler.response_streaming](answer, handler.request_deserializer, handler.response_serializer)

    async def _answer(self, behaviour: Any, context: Any) -> Any:
        address = address_of(context.peer())
        peer = self._peers.setdefault(address, _Peer())
        peer.calls += 1
        try:
            request = await self._receive(peer, context)
            return await behaviour(request, context)
        except Rejection as rejection:
            with answering(choose_request_id(None), address):
                await abort(context, rejection)
        finally:
            peer.calls -= 1
            if peer.calls == 0:
                del self._peers[address]

    async def _receive(self, peer: _Peer, context: Any) -> Any:
        """The message. Raises: Rejection: there is none, it is too large or too slow, or there are too many."""
        if peer.calls > CALLS_AT_ONCE:
            message = f"{CALLS_AT_ONCE} calls of this address that need no token are under way"
            raise Rejection("RESOURCE_EXHAUSTED", "TOO_MANY_OPEN_CALLS", message)
        try:
            async with peer.receiving, asyncio.timeout(RECEIVE_S):
                request = await context.read()
        except DecodeError:
            raise Rejection("INVALID_ARGUMENT", "MESSAGE_MALFORMED", "the message is of another kind") from None
        except TimeoutError:
            raise Rejection("DEADLINE_EXCEEDED", "MESSAGE_LATE", f"no message within {RECEIVE_S:g} s") from None
        if not isinstance(request, Message):  # the end of the stream
            raise Rejection("INVALID_ARGUMENT", "MESSAGE_MISSING", "the call has no message")
        if request.ByteSize() > MAX_BYTES:
            message = f"the message has {request.ByteSize()} bytes; at most {MAX_BYTES} are taken without a token"
            raise Rejection("INVALID_ARGUMENT", "MESSAGE_TOO_LARGE", message)
        return request
