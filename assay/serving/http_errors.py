"""Errors of the HTTP door: AIP-193 in JSON, with the reasons of the gRPC door."""

from starlette.responses import JSONResponse, Response

from assay.serving.current_call import with_request_id
from assay.serving.rejection import Rejection
from assay.wire import ERROR_DOMAIN

# The mapping of google.rpc.Code to HTTP, and 413 for bodies that are too large.
HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 413,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
# Reasons that HTTP has a better status for than their code's.
HTTP_STATUS_OF_REASON = {"TOO_MANY_FAILED_ATTEMPTS": 429, "CLIENT_LIMIT": 429, "HOST_UNKNOWN": 421}


def error_response(rejection: Rejection) -> Response:
    """AIP-193 in JSON."""
    status = HTTP_STATUS_OF_REASON.get(rejection.reason, HTTP_STATUS[rejection.code])
    details = {"reason": rejection.reason, "domain": ERROR_DOMAIN, "metadata": with_request_id(rejection.metadata)}
    error = {"code": status, "status": rejection.code, "message": rejection.message, "details": [details]}
    headers = {}
    if rejection.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(rejection.retry_after_s)))
    if rejection.code == "UNAUTHENTICATED":
        headers["www-authenticate"] = "Bearer"
    return JSONResponse({"error": error}, status, headers)
