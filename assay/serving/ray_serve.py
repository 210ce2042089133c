"""The reward services on Ray Serve: a deployment each, behind one gRPC door that speaks the same contract.

    serve deploy deploy/ray/miniature.yaml

`build` is what the file's `import_path` names. The ingress checks the token and hands a call to the deployment that has
the scorer. There it takes the path of any other server: admission, batches, one model thread. What differs from a
server of its own: Serve's proxy does not tell how much time a caller gives, so that no call is refused as too late; it
has no TLS; callers are not told apart, so that limits by client and on failed attempts do nothing; health and metrics
are Ray's. A replica that is lost with a call, or a service that has none, is UNAVAILABLE: clients try again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc
from pydantic import Field, ValidationError, model_validator
from ray import serve
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, RayError, WorkerCrashedError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from assay.config import ConfigModel, load_config
from assay.errors import ConfigError
from assay.serve_command import SERVICES, ServiceConfig
from assay.serving.auth import Authenticator
from assay.serving.grpc_errors import internal_error
from assay.serving.metrics import Metrics
from assay.serving.rejection import Rejection
from assay.serving.service import ScoringService
from assay.serving.settings import ServeConfig
from assay.v1 import reward_service_pb2 as pb
from assay.wire import status_to_proto

logger = logging.getLogger("assay.serving")

T = TypeVar("T")
#: More than a replica's own admission lets in: it, not Serve, says when a replica is full.
MOST_CALLS_AT_A_REPLICA = 256
#: For how long the ingress waits for a service that it asks for its scorers. A client asks for them, too, to see
#: whether the ingress lives, and does not wait long.
LISTED_WITHIN_S = 1.0
#: What a handle raises when its replica is lost, or when there is none. What a replica itself raises is a defect.
NO_REPLICA = (
    RayActorError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    WorkerCrashedError,
    BackPressureError,
    DeploymentUnavailableError,
)


class RayServices(ConfigModel):
    """Arguments of the application.

    Args:
        services: name of a service -> its configuration, relative to where Serve runs; and further settings of it as
            on the command line.
        token_file: bearer tokens that callers must show.
        insecure: allow everyone who reaches the port to call.
    """

    services: dict[str, "RayService"] = Field(min_length=1)
    token_file: Path | None = None
    insecure: bool = False

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        if self.token_file is None and not self.insecure:
            raise ValueError("Serve's gRPC port is reachable from other machines; give token_file, or insecure: true")
        return self


class RayService(ConfigModel):
    """One of the services."""

    config: Path
    settings: list[str] = Field(default_factory=list)


class HostedService:
    """A replica of one service: its scorers, their queue and their model thread."""

    def __init__(self, name: str, config: Path, settings: list[str]) -> None:
        found = load_config(ServiceConfig, config, settings)
        dropped = [name for name in ("token", "token_file", "tls") if getattr(found.serve, name) is not None]
        if dropped:
            raise ConfigError(f"{config}: serve.{dropped[0]} is not for Ray Serve; args.token_file is the ingress's")
        scorers = import_module(SERVICES[name][0]).build_scorers(found.scorer)
        self._scorers, self._serve = scorers, found.serve
        self._service: ScoringService | None = None
        self._warming = asyncio.Lock()

    async def list_scorers(self) -> bytes:
        """A `ListScorersResponse`."""
        return (await self._ready()).list_scorers().SerializeToString()

    async def score(self, request: bytes) -> bytes | dict[str, Any]:
        """A `ScoreResponse`, or the arguments of a `Rejection`: raised, it would come out of Ray in another class."""
        try:
            response = await (await self._ready()).score(pb.ScoreRequest.FromString(request), None)
        except Rejection as rejection:
            return vars(rejection)
        return response.SerializeToString()

    async def check_health(self) -> None:
        """Serve asks; it is healthy once it is warm."""
        await self._ready()

    async def _ready(self) -> ScoringService:
        """Made here, for a service belongs to the loop that made it."""
        async with self._warming:
            if self._service is None:
                service = ScoringService(self._scorers, self._serve)
                await service.warm_up()
                self._service = service
        return self._service


class Ingress:
    """The contract, as Serve's gRPC proxy calls it.

    Args:
        config: for the token.
        services: name -> handle of the deployment.
    """

    def __init__(self, config: ServeConfig, services: dict[str, DeploymentHandle]) -> None:
        self._authenticator = Authenticator.from_config(config, Metrics())
        self._services = services
        self._last_heard: dict[str, pb.ListScorersResponse] = {}

    async def Score(self, request: pb.ScoreRequest, grpc_context: Any) -> pb.ScoreResponse:
        return await self._answer(grpc_context, pb.ScoreResponse(), lambda: self._score(request))

    async def ListScorers(self, request: pb.ListScorersRequest, grpc_context: Any) -> pb.ListScorersResponse:
        return await self._answer(grpc_context, pb.ListScorersResponse(), self._list_scorers)

    async def _answer(self, context: Any, nothing: T, work: Callable[[], Awaitable[T]]) -> T:
        try:
            self._authenticator.identify(dict(context.invocation_metadata()).get("authorization"))
            return await work()
        except Rejection as rejection:
            _refuse(context, rejection)
        except NO_REPLICA as error:
            logger.warning("a call found no replica, or lost it: %s", error)
            _refuse(context, _unavailable("no replica of the service answers, or it was lost with the call"))
        except Exception:  # the RPC edge: Serve's proxy would hand the text on to the caller
            _refuse(context, internal_error("a call failed"))
        return nothing  # which nobody sees

    async def _list_scorers(self) -> pb.ListScorersResponse:
        """Those of all services; of one that does not answer, those that it had when it last did."""
        await asyncio.gather(*(self._listen(name, service) for name, service in self._services.items()))
        if not self._last_heard:
            raise _unavailable("no service answers yet")
        return pb.ListScorersResponse(scorers=[info for one in self._last_heard.values() for info in one.scorers])

    async def _listen(self, name: str, service: DeploymentHandle) -> None:
        try:
            answer = await asyncio.wait_for(service.list_scorers.remote(), LISTED_WITHIN_S)
        except (TimeoutError, RayError, RayServeException) as error:  # lost, or broken: the others are not
            logger.warning("%s does not tell its scorers: %r", name, error)
        else:
            self._last_heard[name] = pb.ListScorersResponse.FromString(answer)

    async def _score(self, request: pb.ScoreRequest) -> pb.ScoreResponse:
        if self._service_of(request.scorer) is None:
            await self._list_scorers()
        if (service := self._service_of(request.scorer)) is None:
            raise self._not_found(request.scorer)
        answer = await service.score.remote(request.SerializeToString())
        if isinstance(answer, dict):
            raise Rejection(**answer)
        return pb.ScoreResponse.FromString(answer)

    def _service_of(self, scorer: str) -> DeploymentHandle | None:
        for name, listed in self._last_heard.items():
            if any(info.name == scorer for info in listed.scorers):
                return self._services[name]
        return None

    def _not_found(self, scorer: str) -> Rejection:
        if silent := sorted(self._services.keys() - self._last_heard.keys()):
            return _unavailable(f"no scorer {scorer!r} yet; of these services nothing was heard: {', '.join(silent)}")
        served = ", ".join(info.name for one in self._last_heard.values() for info in one.scorers)
        message = f"no scorer {scorer!r} is served here; there are: {served}"
        return Rejection("NOT_FOUND", "SCORER_NOT_FOUND", message, {"scorer": scorer, "served": served})


def _unavailable(message: str) -> Rejection:
    return Rejection("UNAVAILABLE", "NO_REPLICA", message, retry_after_s=0.5)


def _refuse(context: Any, rejection: Rejection) -> None:
    """The status of AIP-193, as far as Serve lets one set it."""
    status = status_to_proto(
        rejection.code, rejection.reason, rejection.message, rejection.metadata, rejection.retry_after_s
    )
    context.set_code(grpc.StatusCode[rejection.code])
    context.set_details(rejection.message)
    context.set_trailing_metadata([("grpc-status-details-bin", status.SerializeToString())])


def build(args: dict[str, Any]) -> serve.Application:
    """The application of a Serve configuration; `args` are those of `RayServices`.

    Deployments are named as the services; `deployments:` of the file sets their replicas and what each takes.

    Raises:
        ConfigError: an argument is wrong.
    """
    try:
        wanted = RayServices.model_validate(args)
    except ValidationError as error:
        raise ConfigError(f"args of the application: {error}") from None
    if unknown := sorted(wanted.services.keys() - SERVICES.keys()):
        raise ConfigError(f"args.services: no service {unknown[0]!r}; there are: {', '.join(sorted(SERVICES))}")
    hosted = {
        name: serve.deployment(HostedService, name=name, max_ongoing_requests=MOST_CALLS_AT_A_REPLICA).bind(
            name, service.config, service.settings
        )
        for name, service in wanted.services.items()
    }
    ingress = serve.deployment(Ingress, name="ingress", max_ongoing_requests=4 * MOST_CALLS_AT_A_REPLICA)
    return ingress.bind(ServeConfig(token_file=wanted.token_file), hosted)
