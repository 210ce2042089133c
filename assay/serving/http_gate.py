"""What comes before the HTTP application: the token, for every path but health and the page; the size of bodies; and,
where neither token nor TLS keeps foreign pages out, the name that the server was called by."""

from collections.abc import Collection, Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assay.serving.auth import Authenticator
from assay.serving.current_call import answering, choose_request_id, current_call
from assay.serving.host_check import check_host
from assay.serving.http_errors import error_response
from assay.serving.page_files import page_files
from assay.serving.rejection import Rejection
from assay.tracing import server_span

HEALTH_PATHS = frozenset({"/healthz", "/readyz"})


def open_paths() -> frozenset[str]:
    """The paths that need no token."""
    return HEALTH_PATHS | page_files().keys()


class Gatekeeper:
    """Lets in who has a token, with a name, an id and a span; and bodies up to a size, measured as they stream in.

    Args:
        app: what comes after it.
        authenticator: knows the tokens.
        max_body_bytes: of a request.
        hosts: names that are right beside localhost; None takes any.
    """

    def __init__(
        self, app: ASGIApp, authenticator: Authenticator, max_body_bytes: int, hosts: Collection[str] | None = None
    ) -> None:
        self.application = app
        self._authenticator = authenticator
        self._hosts = hosts
        self._max_body_bytes = max_body_bytes
        self._open_paths = open_paths()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] in HEALTH_PATHS:
            await self.application(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        peer = scope["client"][0] if scope["client"] else "unknown"
        # Not the path: that is the caller's to choose, and a span's name should be one of few.
        with server_span(f"HTTP {scope['method']}", headers) as trace_id:
            request_id = choose_request_id(headers.get("x-request-id"), trace_id)
            with answering(request_id, peer):
                await self._answer(scope, receive, send, headers, peer)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, headers: Mapping[str, str], peer: str) -> None:
        try:
            if self._hosts is not None:
                check_host(headers.get("host", ""), self._hosts)
            holder = "" if scope["path"] in self._open_paths else self._identify(headers, peer)
            if int(headers.get("content-length", "0")) > self._max_body_bytes:
                self._refuse_size()
            with answering(current_call().request_id, holder or peer):
                await self.application(scope, self._counting(receive), send)
        except Rejection as rejection:
            await error_response(rejection)(scope, receive, send)

    def _identify(self, headers: Mapping[str, str], peer: str) -> str:
        try:
            return self._authenticator.identify(headers.get("authorization"))
        except Rejection as rejection:
            raise self._authenticator.count_failure(rejection, peer, "http") from None

    def _counting(self, receive: Receive) -> Receive:
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                self._refuse_size()
            return message

        return receive_counted

    def _refuse_size(self) -> None:
        limit = self._max_body_bytes
        raise Rejection(
            "RESOURCE_EXHAUSTED", "BODY_TOO_LARGE", f"the body is larger than {limit} bytes", {"limit": str(limit)}
        )
