"""The HTTP door: scoring in JSON, health, metrics, what `/status` shows, and the contract at `/openapi.json`.

`POST /v1/score` takes JSON with images in base64, or a form with a `request` part (the same JSON without images) and
one `images` file for each item. Errors have the shape of AIP-193, with the reasons of the gRPC door.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from google.protobuf import json_format
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.types import ASGIApp

from assay.images import sniff_format
from assay.serving.auth import Authenticator
from assay.serving.grpc_errors import internal_error
from assay.serving.host_check import plain_name
from assay.serving.http_errors import error_response
from assay.serving.http_gate import Gatekeeper
from assay.serving.http_models import JsonScoreRequest, response_to_json
from assay.serving.page_files import page_files, page_response
from assay.serving.rejection import Rejection
from assay.serving.service import ScoringService
from assay.serving.settings import ServeConfig
from assay.serving.status import status_of
from assay.v1 import reward_service_pb2 as pb
from assay.wire import FORMATS

BASE64_OVERHEAD = 1.4
_SCHEMAS = "#/components/schemas/{model}"


def create_app(service: ScoringService, authenticator: Authenticator, config: ServeConfig) -> ASGIApp:
    """The application, wrapped in the checks that come before it."""
    # Without FastAPI's own pages, which load scripts from elsewhere.
    app = FastAPI(title="Assay reward service", version="1", description=__doc__, docs_url=None, redoc_url=None)
    _add_routes(app, service)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    largest = config.max_message_bytes or max(info.limits.max_bytes_per_call for info in service.infos)
    hosts = None if config.has_guard else [plain_name(config.host), *config.allowed_hosts]
    return Gatekeeper(app, authenticator, int(largest * BASE64_OVERHEAD), hosts)


def _add_routes(app: FastAPI, service: ScoringService) -> None:
    body = {"content": {"application/json": {"schema": {"$ref": _SCHEMAS.format(model="JsonScoreRequest")}}}}

    @app.post("/v1/score", openapi_extra={"requestBody": {**body, "required": True}})
    async def score(request: Request) -> Response:
        """Score a batch of items; every result has either a `score` or an `error`."""
        return await answer(lambda: _score(service, request))

    @app.get("/v1/scorers")
    async def scorers() -> Response:
        """The scorers served here, with limits and fingerprints."""

        async def listed() -> Response:
            return _json({"scorers": [_info(info) for info in service.list_scorers().scorers]})

        return await answer(listed)

    @app.get("/v1/status")
    async def status() -> Response:
        """What the server does now: queue, throughput, latency, what was refused, recent failures."""

        async def told() -> Response:
            return _json(status_of(service))

        return await answer(told)

    @app.get("/healthz")
    async def healthz() -> Response:
        """The process lives."""
        return _json({"status": "alive"})

    @app.get("/readyz")
    async def readyz() -> Response:
        """Every scorer has been warmed up, and the server is not draining."""
        ready = service.is_ready and not service.is_draining
        return _json({"status": "ready" if ready else "not ready"}, 200 if ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus' text format."""
        return Response(service.metrics.exposition(), media_type="text/plain; version=0.0.4")

    for path in page_files():
        app.add_api_route(path, partial(_page, path), include_in_schema=False)


async def _page(path: str) -> Response:
    return page_response(path)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's schema, and the body of `/v1/score`, which the route reads itself (it may be a form, too)."""
    document = FastAPI.openapi(app)
    schema = JsonScoreRequest.model_json_schema(ref_template=_SCHEMAS)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(schema.pop("$defs"))
    schemas["JsonScoreRequest"] = schema
    return document


async def answer(work: Callable[[], Awaitable[Response]]) -> Response:
    """Await the response; turn refusals and failures into JSON errors."""
    try:
        return await work()
    except Rejection as rejection:
        return error_response(rejection)
    except Exception:  # the RPC edge
        return error_response(internal_error("an HTTP request failed"))


async def _score(service: ScoringService, request: Request) -> Response:
    body, message = await _read_request(request)
    scoring = asyncio.create_task(service.score(message, body.deadline_s))
    leaving = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({scoring, leaving}, timeout=body.deadline_s, return_when=asyncio.FIRST_COMPLETED)
        if not scoring.done():
            raise Rejection("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", f"no scores within {body.deadline_s} s")
        return _json(response_to_json(scoring.result()))
    finally:
        scoring.cancel()
        leaving.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _read_request(request: Request) -> tuple[JsonScoreRequest, pb.ScoreRequest]:
    content_type = request.headers.get("content-type", "")
    if not content_type.startswith("multipart/form-data"):
        body = _parse(await request.body())
        return body, body.to_proto()
    form = await request.form()
    text = form.get("request")
    if not isinstance(text, str):
        raise Rejection("INVALID_ARGUMENT", "REQUEST_MALFORMED", "the form has no text part named `request`")
    body = _parse(text.encode())
    files = [part for part in form.getlist("images") if isinstance(part, UploadFile)]
    if len(files) != len(body.items):
        message = f"the form has {len(files)} `images` files for {len(body.items)} items; give one for each"
        raise Rejection("INVALID_ARGUMENT", "REQUEST_MALFORMED", message)
    message_proto = body.to_proto()
    for item, file in zip(message_proto.items, files, strict=True):
        data = await file.read()
        image = item.images.add()
        image.encoded.data = data
        image.encoded.format = FORMATS.get(sniff_format(data) or "", pb.IMAGE_FORMAT_UNSPECIFIED)
    return body, message_proto


def _parse(body: bytes) -> JsonScoreRequest:
    try:
        return JsonScoreRequest.model_validate_json(body)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'body'}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)[:5]
        )
        raise Rejection("INVALID_ARGUMENT", "REQUEST_MALFORMED", problems) from None


def _info(info: pb.ScorerInfo) -> dict[str, Any]:
    return json_format.MessageToDict(info, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _json(content: dict[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(content, allow_nan=False), status, media_type="application/json")
