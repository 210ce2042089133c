"""Errors of the gRPC door: a status of AIP-193, with the id of the call. What was raised inside stays in the log."""

import logging
import uuid
from typing import Any, NoReturn

import grpc

from assay.serving.current_call import with_request_id
from assay.serving.rejection import Rejection
from assay.wire import status_to_proto

logger = logging.getLogger("assay.serving")


def internal_error(what: str) -> Rejection:
    """Log the exception being handled under a new id, and give what the caller may know of it."""
    error_id = uuid.uuid4().hex[:12]
    logger.exception("%s (error id %s)", what, error_id)
    return Rejection("INTERNAL", "INTERNAL_ERROR", f"internal error, id {error_id}", {"error_id": error_id})


async def abort(context: Any, rejection: Rejection) -> NoReturn:
    """End a call with the rejection's status, its details and, for gRPC's own retries, the delay."""
    status = status_to_proto(
        rejection.code,
        rejection.reason,
        rejection.message,
        with_request_id(rejection.metadata),
        rejection.retry_after_s,
    )
    trailing: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", status.SerializeToString())]
    if rejection.retry_after_s is not None:
        trailing.append(("grpc-retry-pushback-ms", str(int(rejection.retry_after_s * 1000))))
    await context.abort(grpc.StatusCode[rejection.code], rejection.message, tuple(trailing))
    raise AssertionError("abort returned")
