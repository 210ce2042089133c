"""No method and no path but health answers without the token; nothing unsafe starts."""

import logging
import ssl
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from assay_doubles import MeanScorer, grey, plain
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from assay.client import RewardClient
from assay.config import load_config
from assay.errors import AuthenticationError, ConfigError, ServiceUnavailableError
from assay.outcomes import Scored
from assay.serving.settings import ServeConfig
from assay.testing import BackgroundServer, serve_in_background
from assay.v1 import reward_service_pb2 as pb
from assay.v1 import reward_service_pb2_grpc as pb_grpc

TOKEN = "s3cret"
WRONG = [
    None,
    "",
    "s3cret",
    "Bearer",
    "Bearer wrong",
    "Bearer s3cret ",
    "bearer s3cret",
    "Bearer s3cre",
    "Basic s3cret",
]


@pytest.fixture(scope="module")
def server() -> Iterator[BackgroundServer]:
    with serve_in_background([MeanScorer()], token=TOKEN, http_port=0) as server:
        yield server


def metadata(authorization: str | None) -> list[tuple[str, str]]:
    return [] if authorization is None else [("authorization", authorization)]


def call(channel: grpc.Channel, method: str, given: list[tuple[str, str]]) -> object:
    stub = pb_grpc.RewardServiceStub(channel)
    match method:
        case "Score":
            image = pb.Image(rgb=pb.RgbImage(width=8, height=8, rgb8=bytes(192)))
            message = pb.ScoreRequest(scorer="mean", items=[pb.ScoreItem(images=[image])])
            return stub.Score(message, metadata=given, timeout=5)
        case "ListScorers":
            return stub.ListScorers(pb.ListScorersRequest(), metadata=given, timeout=5)
        case "Reflection":
            asked = reflection_pb2.ServerReflectionRequest(list_services="")
            reflected = reflection_pb2_grpc.ServerReflectionStub(channel)
            return next(reflected.ServerReflectionInfo(iter([asked]), metadata=given, timeout=5))
        case _:
            no_such = channel.unary_unary("/assay.v1.RewardService/NoSuchMethod")
            return no_such(b"", metadata=given, timeout=5)


@pytest.mark.parametrize("authorization", WRONG)
@pytest.mark.parametrize("method", ["Score", "ListScorers", "Reflection", "NoSuchMethod"])
def test_every_method_wants_the_token(server: BackgroundServer, method: str, authorization: str | None) -> None:
    with grpc.insecure_channel(server.target) as channel, pytest.raises(grpc.RpcError) as caught:
        call(channel, method, metadata(authorization))
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_the_right_token_opens_every_method(server: BackgroundServer) -> None:
    right = metadata(f"Bearer {TOKEN}")
    with grpc.insecure_channel(server.target) as channel:
        for method in ("Score", "ListScorers", "Reflection"):
            call(channel, method, right)
        with pytest.raises(grpc.RpcError) as caught:
            call(channel, "NoSuchMethod", right)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_health_needs_no_token_and_knows_each_scorer(server: BackgroundServer) -> None:
    with grpc.insecure_channel(server.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", "mean", "assay.v1.RewardService"):
            status = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5).status
            assert status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="nope"), timeout=5)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


# Without white space at the end, which HTTP strips.
@pytest.mark.parametrize("authorization", [value for value in WRONG if value is None or value == value.strip()])
@pytest.mark.parametrize("path", ["/v1/score", "/v1/scorers", "/metrics", "/docs", "/openapi.json", "/", "/nope"])
def test_every_path_wants_the_token(server: BackgroundServer, path: str, authorization: str | None) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    response = httpx.request("POST" if path == "/v1/score" else "GET", f"{server.http_url}{path}", headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"


def test_health_paths_need_no_token(server: BackgroundServer) -> None:
    assert httpx.get(f"{server.http_url}/healthz").status_code == 200
    assert httpx.get(f"{server.http_url}/readyz").status_code == 200
    right = {"authorization": f"Bearer {TOKEN}"}
    assert httpx.get(f"{server.http_url}/metrics", headers=right).status_code == 200
    assert httpx.get(f"{server.http_url}/healthz/../metrics").status_code == 401


def test_the_client_shows_its_token(server: BackgroundServer) -> None:
    with RewardClient([server.target], token=TOKEN) as client:
        assert isinstance(client.score([grey(0)], scorer="mean", **plain(1))[0], Scored)
    with RewardClient([server.target], token="wrong") as client:
        with pytest.raises(AuthenticationError):
            client.score([grey(0)], scorer="mean", **plain(1))
        with pytest.raises(AuthenticationError):
            client.wait_until_ready(5)


def test_an_empty_token_starts_nothing(tmp_path: Path) -> None:
    empty = tmp_path / "token"
    empty.write_text(" \n")
    with pytest.raises(ConfigError, match="token is empty"), serve_in_background([MeanScorer()], token_file=empty):
        pass
    with pytest.raises(ConfigError, match="token is empty"):
        load_config(ServeConfig, None, ["token=''"])
    with pytest.raises(ConfigError, match="token is empty"):
        RewardClient(["localhost:1"], token=" ")


def test_a_token_file_works(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("abc\n")
    with (
        serve_in_background([MeanScorer()], token_file=file) as server,
        RewardClient([server.target], token="abc") as client,
    ):
        assert client.list_scorers()[0].name == "mean"
    file.unlink()
    with pytest.raises(ConfigError, match="No such file"), serve_in_background([MeanScorer()], token_file=file):
        pass


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com"])
def test_other_hosts_than_loopback_need_a_guard(host: str) -> None:
    with pytest.raises(ConfigError, match=r"give token, token_file or tls, or insecure: true"):
        load_config(ServeConfig, None, [f"host='{host}'"])
    for guard in ("token=x", "token_file=/x", "insecure=true", "tls={certificate: /c, key: /k}"):
        assert load_config(ServeConfig, None, [f"host='{host}'", guard]).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_guard(host: str) -> None:
    assert load_config(ServeConfig, None, [f"host='{host}'"]).host == host


def test_the_token_is_not_shown() -> None:
    config = load_config(ServeConfig, None, [f"token={TOKEN}"])
    assert TOKEN not in repr(config)


def test_tls_and_mutual_tls(certificates: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    tls = {"certificate": certificates / "server.pem", "key": certificates / "server.key"}
    own = {"tls_certificate": certificates / "client.pem", "tls_key": certificates / "client.key"}
    ca = certificates / "ca.pem"
    with serve_in_background([MeanScorer()], tls=tls, http_port=0) as server:
        with RewardClient([server.target], tls_ca=ca) as client:
            assert client.list_scorers()[0].name == "mean"
        with RewardClient([server.target]) as client, pytest.raises(ServiceUnavailableError):
            client.wait_until_ready(0.5)
        url = f"https://{server.http_url.removeprefix('http://')}" if server.http_url else ""
        assert httpx.get(f"{url}/healthz", verify=ssl.create_default_context(cafile=str(ca))).status_code == 200
    with serve_in_background([MeanScorer()], tls={**tls, "client_ca": ca}) as server:
        with RewardClient([server.target], tls_ca=ca, **own) as client:
            assert client.list_scorers()[0].name == "mean"
        with RewardClient([server.target], tls_ca=ca) as client, pytest.raises(ServiceUnavailableError):
            client.wait_until_ready(0.5)
