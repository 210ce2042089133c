"""The call being answered: its id and its caller. Set by the doors, read by logs, limits and error messages."""

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

# What one may search logs for; anything else in a header could forge a line of them.
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


@dataclass(frozen=True)
class CurrentCall:
    """One call.

    Args:
        request_id: sent by the caller as `x-request-id`, else the id of its trace, else made here.
        caller: name of the token, or subject of the certificate, or address of the peer.
    """

    request_id: str = ""
    caller: str = ""


_NONE = CurrentCall()
_current: ContextVar[CurrentCall] = ContextVar("assay_current_call", default=_NONE)


def current_call() -> CurrentCall:
    """The call that this task answers; an empty one where there is none."""
    return _current.get()


@contextmanager
def answering(request_id: str, caller: str) -> Iterator[None]:
    """Make it the current call of this task."""
    token = _current.set(CurrentCall(request_id, caller))
    try:
        yield
    finally:
        _current.reset(token)


def choose_request_id(sent: str | None, trace_id: str | None = None) -> str:
    """The id that was sent if it is a plain one, else that of the trace, else a new one."""
    if sent is not None and _REQUEST_ID.fullmatch(sent):
        return sent
    return trace_id or uuid.uuid4().hex


def with_request_id(metadata: dict[str, str]) -> dict[str, str]:
    """An error's metadata, and the id of the call that failed."""
    request_id = current_call().request_id
    return {**metadata, "request_id": request_id} if request_id else metadata
