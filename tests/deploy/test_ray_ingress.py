"""What the ingress on Ray Serve makes of services that are lost, hang or break. Ray is installed, but does not run."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from google.rpc.status_pb2 import Status

from assay.errors import ConfigError
from assay.serving.settings import ServeConfig
from assay.v1 import reward_service_pb2 as pb
from assay.wire import error_info, retry_after_s

pytest.importorskip("ray.serve", reason="assay[ray-serve] is not installed")
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
from ray.serve.exceptions import DeploymentUnavailableError

from assay.serving.ray_serve import LISTED_WITHIN_S, Ingress, RayServices, build

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
SCORES = pb.ScoreResponse(scorer_fingerprint="f1").SerializeToString()


def lists(scorer: str) -> bytes:
    return pb.ListScorersResponse(scorers=[pb.ScorerInfo(name=scorer)]).SerializeToString()


class Service:
    """Stands where a handle of a deployment would."""

    def __init__(self, score: Callable[[], Awaitable[Any]], list_scorers: Callable[[], Awaitable[Any]]) -> None:
        self.score, self.list_scorers = Method(score), Method(list_scorers)


class Method:
    def __init__(self, answer: Callable[[], Awaitable[Any]]) -> None:
        self.answer = answer

    def remote(self, *_: bytes) -> Awaitable[Any]:
        return self.answer()


class Call:
    """Serve's context: what the caller would be told."""

    code, details, metadata = grpc.StatusCode.OK, "", ()

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return []

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, metadata: Any) -> None:
        self.metadata = metadata

    @property
    def status(self) -> Status:
        return Status.FromString(dict(self.metadata)["grpc-status-details-bin"])


async def gives(answer: bytes) -> bytes:
    return answer


async def breaks(error: Exception) -> bytes:
    raise error


def service(scorer: str, score: Callable[[], Awaitable[Any]] = lambda: gives(SCORES)) -> Service:
    return Service(score, lambda: gives(lists(scorer)))


def ingress(**services: Service) -> Any:
    return Ingress(ServeConfig(), services)  # type: ignore[arg-type]


def score(door: Any, scorer: str) -> Call:
    call = Call()
    asyncio.run(door.Score(pb.ScoreRequest(scorer=scorer), call))
    return call


@pytest.mark.parametrize(
    "lost",
    [ActorDiedError(), ActorUnavailableError("gone", None), DeploymentUnavailableError("geneval")],
    ids=lambda error: type(error).__name__,
)
def test_a_call_whose_replica_is_lost_is_one_that_clients_try_again(lost: Exception) -> None:
    call = score(ingress(geneval=service("counting", lambda: breaks(lost))), "counting")
    assert call.code == grpc.StatusCode.UNAVAILABLE
    assert error_info(call.status).reason == "NO_REPLICA"
    assert 0 < (retry_after_s(call.status) or 0) <= 1


def test_what_is_raised_inside_stays_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        call = score(ingress(geneval=service("counting", lambda: breaks(RuntimeError("/secret/path")))), "counting")
    assert call.code == grpc.StatusCode.INTERNAL
    assert "/secret/path" not in call.details + str(call.status)
    assert error_info(call.status).metadata["error_id"] in caplog.text
    assert "/secret/path" in caplog.text


@pytest.mark.parametrize(
    "silent",
    [
        lambda: asyncio.sleep(60),
        lambda: breaks(ActorDiedError()),
        lambda: breaks(DeploymentUnavailableError("x")),
        lambda: breaks(RayTaskError("list_scorers", "...", ValueError("out of order")).as_instanceof_cause()),
    ],
    ids=["hangs", "died", "never deployed", "raises"],
)
def test_a_service_that_does_not_answer_hides_no_other(silent: Callable[[], Awaitable[Any]]) -> None:
    door = ingress(geneval=service("counting"), spatial=Service(silent, silent))

    async def listed() -> list[str]:
        call = Call()
        answer = await asyncio.wait_for(door.ListScorers(pb.ListScorersRequest(), call), LISTED_WITHIN_S + 5)
        assert call.code == grpc.StatusCode.OK
        return [info.name for info in answer.scorers]

    assert asyncio.run(listed()) == ["counting"]
    assert score(door, "counting").code == grpc.StatusCode.OK
    # It may be the other's; that there is none would end a run.
    assert score(door, "relation").code == grpc.StatusCode.UNAVAILABLE


def test_a_service_that_falls_silent_keeps_its_scorers() -> None:
    """A run that begins meanwhile waits for it, instead of being told that there is no such scorer."""
    spatial = service("relation")
    door = ingress(spatial=spatial)
    assert score(door, "relation").code == grpc.StatusCode.OK
    spatial.list_scorers.answer = spatial.score.answer = lambda: breaks(ActorDiedError())
    answer = asyncio.run(door.ListScorers(pb.ListScorersRequest(), Call()))
    assert [info.name for info in answer.scorers] == ["relation"]
    assert score(door, "relation").code == grpc.StatusCode.UNAVAILABLE
    assert score(door, "beauty").code == grpc.StatusCode.NOT_FOUND


def test_before_any_service_answers_the_door_is_unavailable() -> None:
    call = Call()
    door = ingress(geneval=Service(lambda: gives(SCORES), lambda: breaks(ActorDiedError())))
    asyncio.run(door.ListScorers(pb.ListScorersRequest(), call))
    assert call.code == grpc.StatusCode.UNAVAILABLE


def test_a_port_that_all_machines_reach_wants_a_token_or_a_word_for_it() -> None:
    geneval = {"geneval": {"config": "configs/services/geneval.yaml"}}
    for args in ({"services": geneval}, {"services": geneval, "token_file": None}):
        with pytest.raises(ConfigError, match="reachable from other machines; give token_file, or insecure: true"):
            build(args)
    assert RayServices.model_validate({"services": geneval, "insecure": True}).token_file is None
    (shipped,) = yaml.safe_load((ROOT / "deploy/ray/miniature.yaml").read_text())["applications"]
    assert RayServices.model_validate(shipped["args"]).token_file == Path("secrets/services/token")
