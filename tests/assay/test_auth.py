"""No method and no path but health answers without the token; nothing unsafe starts."""

import logging
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from assay_doubles import MeanScorer, grey, plain
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from assay.client import RewardClient
from assay.config import load_config
from assay.errors import AuthenticationError, ConfigError, ServiceUnavailableError
from assay.outcomes import Scored
from assay.serving.auth import OPEN_GRPC_METHODS, Authenticator
from assay.serving.http_app import create_app
from assay.serving.http_gate import Gatekeeper, open_paths
from assay.serving.metrics import Metrics
from assay.serving.settings import ServeConfig
from assay.testing import BackgroundServer, serve_in_background

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
    with serve_in_background([MeanScorer()], token=TOKEN, http_port=0, max_failed_attempts_per_minute=10_000) as server:
        yield server


def metadata(authorization: str | None) -> list[tuple[str, str]]:
    return [] if authorization is None else [("authorization", authorization)]


def methods_of(server: BackgroundServer) -> list[str]:
    """Every method that the server has, `/service/Method`, by its own reflection; and one that it has not."""
    found = ["/assay.v1.RewardService/NoSuchMethod"]
    with grpc.insecure_channel(server.target) as channel:
        database = ProtoReflectionDescriptorDatabase(Metadated(channel))
        pool = DescriptorPool(database)
        for service in database.get_services():
            found += [f"/{service}/{method.name}" for method in pool.FindServiceByName(service).methods]
    return found


class Metadated:
    """A channel that shows the token, for clients that cannot be told to."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def stream_stream(self, *arguments: Any, **options: Any) -> Any:
        made = self._channel.stream_stream(*arguments, **options)
        return lambda requests: made(requests, metadata=metadata(f"Bearer {TOKEN}"), timeout=5)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)


def status_of(channel: grpc.Channel, method: str, given: list[tuple[str, str]]) -> grpc.StatusCode:
    """Call any method with an empty message, whatever its shape."""
    is_stream = method.endswith(("/ServerReflectionInfo", "/Watch"))
    try:
        if is_stream:
            asked = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
            next(channel.stream_stream(method)(iter([asked]), metadata=given, timeout=5))
        else:
            channel.unary_unary(method)(b"", metadata=given, timeout=5)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("authorization", WRONG)
def test_every_method_wants_the_token(server: BackgroundServer, authorization: str | None) -> None:
    methods = methods_of(server)
    assert {"/assay.v1.RewardService/Score", "/assay.v1.RewardService/ListScorers"} < {*methods}
    assert "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" in methods
    with grpc.insecure_channel(server.target) as channel:
        codes = {method: status_of(channel, method, metadata(authorization)) for method in methods}
    expected = {
        method: grpc.StatusCode.OK if method in OPEN_GRPC_METHODS else grpc.StatusCode.UNAUTHENTICATED
        for method in methods
    }
    assert codes == expected


def test_the_right_token_opens_every_method(server: BackgroundServer) -> None:
    with grpc.insecure_channel(server.target) as channel:
        codes = {method: status_of(channel, method, metadata(f"Bearer {TOKEN}")) for method in methods_of(server)}
    assert codes.pop("/assay.v1.RewardService/NoSuchMethod") == grpc.StatusCode.UNIMPLEMENTED
    assert codes.pop("/assay.v1.RewardService/Score") == grpc.StatusCode.NOT_FOUND  # the empty name of a scorer
    assert {*codes.values()} == {grpc.StatusCode.OK}


def test_who_has_the_token_may_list_the_health_of_all(server: BackgroundServer) -> None:
    with grpc.insecure_channel(server.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        listed = stub.List(health_pb2.HealthListRequest(), metadata=metadata(f"Bearer {TOKEN}"), timeout=5).statuses
    assert {*listed} == {"", "mean", "assay.v1.RewardService"}
    assert {response.status for response in listed.values()} == {health_pb2.HealthCheckResponse.SERVING}


def test_health_needs_no_token_and_knows_each_scorer(server: BackgroundServer) -> None:
    with grpc.insecure_channel(server.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", "mean", "assay.v1.RewardService"):
            status = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5).status
            assert status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="nope"), timeout=5)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def paths_of(server: BackgroundServer) -> list[tuple[str, str]]:
    """Every (verb, path) that the application has, and some that it has not."""
    app = create_app(server.service, Authenticator.from_config(ServeConfig(), Metrics()), ServeConfig())
    assert isinstance(app, Gatekeeper)
    routes = app.application.routes  # type: ignore[attr-defined]
    found = [(verb, route.path) for route in routes for verb in route.methods]
    return [*found, ("GET", "/nope"), ("GET", "/docs"), ("POST", "/healthz/x"), ("GET", "/page/../metrics")]


# Without white space at the end, which HTTP strips.
@pytest.mark.parametrize("authorization", [value for value in WRONG if value is None or value == value.strip()])
def test_every_path_wants_the_token(server: BackgroundServer, authorization: str | None) -> None:
    paths = paths_of(server)
    wanting = [(verb, path) for verb, path in paths if path not in open_paths()]
    assert {("POST", "/v1/score"), ("GET", "/v1/status"), ("GET", "/metrics"), ("GET", "/openapi.json")} < {*wanting}
    headers = {} if authorization is None else {"authorization": authorization}
    with httpx.Client(base_url=server.http_url or "") as client:
        answers = {(verb, path): client.request(verb, path, headers=headers) for verb, path in wanting}
        assert {answer.status_code for answer in answers.values()} == {401}
        assert {answer.headers["www-authenticate"] for answer in answers.values()} == {"Bearer"}
        assert client.get("/metrics", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_what_is_open_is_health_and_files(server: BackgroundServer) -> None:
    named = {"/healthz", "/readyz", "/", "/status"}
    assert {path for path in open_paths() if not path.startswith("/page/")} == named


def test_health_paths_need_no_token(server: BackgroundServer) -> None:
    assert httpx.get(f"{server.http_url}/healthz").status_code == 200
    assert httpx.get(f"{server.http_url}/readyz").status_code == 200
    right = {"authorization": f"Bearer {TOKEN}"}
    assert httpx.get(f"{server.http_url}/metrics", headers=right).status_code == 200
    assert httpx.get(f"{server.http_url}/healthz/../metrics").status_code == 401


def test_the_client_shows_its_token(server: BackgroundServer) -> None:
    with RewardClient([server.target], token=f"{TOKEN}\n") as client:  # as `cat` gives it
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


@pytest.mark.parametrize("token", ["secret one", "secret\nsecret", "secret\x00", "sécret"])
def test_a_token_that_no_header_can_hold_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(ConfigError, match="printable ASCII without white space") as raised:
        RewardClient(["localhost:1"], token=token)
    assert token not in str(raised.value)


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
