"""TLS at both doors: whom it lets in, and that certificates are exchanged while the server runs."""

import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
from assay_doubles import MeanScorer, grey, plain
from grpc_health.v1 import health_pb2, health_pb2_grpc
from waiting import wait_for

from assay.client import RewardClient
from assay.errors import ConfigError
from assay.grpc_options import server_options
from assay.outcomes import Scored
from assay.serving import grpc_server
from assay.serving.probe import health_of
from assay.testing import BackgroundServer, serve_in_background
from assay.v1 import reward_service_pb2 as pb
from assay.v1 import reward_service_pb2_grpc as pb_grpc
from assay.watched_files import WatchedFiles

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_certificates.sh"


def make(folder: Path, *arguments: str, days: int = 2) -> None:
    environment = {**os.environ, "DAYS": str(days)}
    subprocess.run([SCRIPT, folder, *arguments], check=True, capture_output=True, env=environment)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca, server, and the clients `trainer` and `late` (expired)."""
    folder = tmp_path_factory.mktemp("ours")
    make(folder, "ca")
    make(folder, "server", "localhost", "127.0.0.1", "::1")
    make(folder, "client", "trainer")
    make(folder, "client", "late", days=-1)
    return folder


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same names from another authority."""
    folder = tmp_path_factory.mktemp("theirs")
    make(folder, "ca")
    make(folder, "server", "localhost", "127.0.0.1")
    make(folder, "client", "trainer")
    return folder


@pytest.fixture
def files(authority: Path, tmp_path: Path) -> Path:
    """A copy of the server's files, to be exchanged."""
    for name in ("server.pem", "server.key", "ca.pem"):
        shutil.copy(authority / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def server(files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BackgroundServer]:
    """Asks for client certificates; looks at its files at each handshake, not once a second."""
    monkeypatch.setattr(WatchedFiles.__init__, "__defaults__", (0.0,))
    tls = {"certificate": files / "server.pem", "key": files / "server.key", "client_ca": files / "ca.pem"}
    with serve_in_background([MeanScorer()], http_port=0, tls=tls) as server:
        yield server


def grpc_enters(server: BackgroundServer, ca: Path, identity: Path | None) -> bool:
    """Whether a client gets through to a method that is open to all."""
    pair = (None, None) if identity is None else (identity.with_suffix(".key"), identity.with_suffix(".pem"))
    key, chain = (path and path.read_bytes() for path in pair)
    credentials = grpc.ssl_channel_credentials(ca.read_bytes(), key, chain)
    with grpc.secure_channel(server.target, credentials, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        except grpc.RpcError as error:
            return error.code() != grpc.StatusCode.UNAVAILABLE
    return True


def http_enters(server: BackgroundServer, ca: Path, identity: Path | None) -> bool:
    context = ssl.create_default_context(cafile=str(ca))
    if identity is not None:
        context.load_cert_chain(identity.with_suffix(".pem"), identity.with_suffix(".key"))
    try:
        return httpx.get(f"{url_of(server)}/healthz", verify=context, timeout=10).status_code == 200
    except (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError):
        return False


def enters(server: BackgroundServer, ca: Path, identity: Path | None) -> tuple[bool, bool]:
    return grpc_enters(server, ca, identity), http_enters(server, ca, identity)


def url_of(server: BackgroundServer) -> str:
    return (server.http_url or "").replace("http://", "https://")


def test_only_certificates_of_the_authority_that_are_good_today_get_in(
    server: BackgroundServer, authority: Path, stranger: Path
) -> None:
    ca = authority / "ca.pem"
    assert enters(server, ca, authority / "trainer") == (True, True)
    assert enters(server, ca, None) == (False, False)
    assert enters(server, ca, authority / "late") == (False, False)
    assert enters(server, ca, stranger / "trainer") == (False, False)
    assert enters(server, ca, authority / "server") == (False, False)  # good for servers alone


def test_handshakes_are_counted_those_that_fail_too(server: BackgroundServer, authority: Path, stranger: Path) -> None:
    """gRPC does not say which of them failed; a client that is refused begins many."""

    def counted() -> dict[str, float]:
        families = server.service.metrics.tls_handshakes.collect()
        return {s.labels["door"]: s.value for family in families for s in family.samples if s.name.endswith("_total")}

    assert counted() == {"grpc": 0, "http": 0}  # there from the start, so that the first event counts
    assert enters(server, authority / "ca.pem", authority / "trainer") == (True, True)
    assert counted() == {"grpc": 1, "http": 1}
    assert enters(server, authority / "ca.pem", stranger / "trainer") == (False, False)
    assert counted()["grpc"] >= 2
    assert counted()["http"] >= 2


def test_the_probe_of_containers_speaks_tls(
    server: BackgroundServer, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert health_of(server.target).startswith("UNAVAILABLE")
    monkeypatch.setenv("ASSAY_PROBE_CA", str(authority / "ca.pem"))
    assert health_of(server.target).startswith("UNAVAILABLE")
    monkeypatch.setenv("ASSAY_PROBE_CERTIFICATE", str(authority / "trainer.pem"))
    monkeypatch.setenv("ASSAY_PROBE_KEY", str(authority / "trainer.key"))
    assert health_of(server.target, deadline_s=10) == "SERVING"


def test_a_client_takes_no_server_of_another_authority(
    server: BackgroundServer, authority: Path, stranger: Path
) -> None:
    assert enters(server, stranger / "ca.pem", authority / "trainer") == (False, False)


def test_plain_text_is_not_answered(server: BackgroundServer) -> None:
    with grpc.insecure_channel(server.target) as channel, pytest.raises(grpc.RpcError):
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=3)
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{server.http_url}/healthz", timeout=3)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_versions_of_tls_are_refused(server: BackgroundServer, authority: Path) -> None:
    context = ssl.create_default_context(cafile=str(authority / "ca.pem"))
    context.load_cert_chain(authority / "trainer.pem", authority / "trainer.key")
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    for address in (server.target, url_of(server).removeprefix("https://")):
        host, port = address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), 5) as plain_socket, pytest.raises((ssl.SSLError, OSError)):
            context.wrap_socket(plain_socket, server_hostname="localhost")


def test_the_client_scores_over_mutual_tls(server: BackgroundServer, authority: Path) -> None:
    own = {"tls_certificate": authority / "trainer.pem", "tls_key": authority / "trainer.key"}
    with RewardClient([server.target], tls_ca=authority / "ca.pem", **own) as client:
        assert isinstance(client.score([grey(1)], scorer="mean", **plain(1))[0], Scored)


def served_by_http(server: BackgroundServer, authority: Path) -> bytes:
    """The certificate that the HTTP door shows; the gRPC door's is known by whether a client takes it."""
    context = ssl.create_default_context(cafile=str(authority / "ca.pem"))
    context.load_cert_chain(authority / "trainer.pem", authority / "trainer.key")
    host, port = url_of(server).removeprefix("https://").rsplit(":", 1)
    with (
        socket.create_connection((host, int(port)), 5) as plain_socket,
        context.wrap_socket(plain_socket, server_hostname="localhost") as secured,
    ):
        return secured.getpeercert(binary_form=True) or b""


def test_a_new_certificate_is_shown_to_new_connections(server: BackgroundServer, authority: Path, files: Path) -> None:
    before = served_by_http(server, authority)
    make_in(authority, files, "server", "localhost", "127.0.0.1")
    after = served_by_http(server, authority)
    assert before != after == ssl.PEM_cert_to_DER_cert((files / "server.pem").read_text())
    assert enters(server, authority / "ca.pem", authority / "trainer") == (True, True)


def make_in(authority: Path, folder: Path, *arguments: str) -> None:
    """Sign with the authority's key into another folder."""
    shutil.copy(authority / "ca.key", folder / "ca.key")
    make(folder, *arguments)


def test_another_authority_is_taken_over_and_the_old_one_ends(
    server: BackgroundServer, authority: Path, stranger: Path, files: Path
) -> None:
    for name in ("server.key", "server.pem", "ca.pem"):  # one by one: in between they do not go together
        shutil.copy(stranger / name, files / name)
        enters(server, authority / "ca.pem", authority / "trainer")
    assert enters(server, stranger / "ca.pem", stranger / "trainer") == (True, True)
    assert enters(server, stranger / "ca.pem", authority / "trainer") == (False, False)
    assert enters(server, authority / "ca.pem", authority / "trainer") == (False, False)
    exposed = server.service.metrics.exposition().decode()
    failed = next(line for line in exposed.splitlines() if line.startswith('assay_failed_reloads_total{what="tls"}'))
    assert float(failed.split()[-1]) >= 1


def test_a_client_takes_up_its_replaced_files_and_ends_what_is_under_way(
    authority: Path, stranger: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both sides change to another authority while a client runs; connections end for their age all the time."""
    ages = [("grpc.max_connection_age_ms", 300), ("grpc.max_connection_age_grace_ms", 20_000)]
    monkeypatch.setattr(grpc_server, "server_options", lambda largest: [*server_options(largest)[:-2], *ages])
    monkeypatch.setattr(WatchedFiles.__init__, "__defaults__", (0.0,))
    tls = {"certificate": files / "server.pem", "key": files / "server.key", "client_ca": files / "ca.pem"}
    own = {"tls_ca": tmp_path / "own-ca.pem", "tls_certificate": tmp_path / "own.pem", "tls_key": tmp_path / "own.key"}
    replace(own, authority)
    scorer = MeanScorer()
    with (
        serve_in_background([scorer], tls=tls) as server,
        RewardClient([server.target], **own, deadline_s=30, unresponsive_after_s=0.4) as client,
    ):
        under_way = client.submit([grey(1)], scorer="mean", **plain(1, "wait"))
        wait_for(lambda: scorer.scored_ids)
        replace(dict(zip(("tls_ca", "tls_certificate", "tls_key"), tls_paths(files), strict=True)), stranger, "server")
        replace(own, stranger)
        assert client.list_scorers(20)
        scorer.gate.set()
        assert isinstance(under_way.result(20)[0], Scored)
        assert client.statistics.replicas[server.target].is_up


def test_a_client_that_is_closed_leaves_no_connection_of_its_former_files(
    authority: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though a call is still under way on it."""
    monkeypatch.setattr(WatchedFiles.__init__, "__defaults__", (0.0,))
    tls, scorer = {"certificate": files / "server.pem", "key": files / "server.key"}, MeanScorer()
    ca = Path(shutil.copy(authority / "ca.pem", tmp_path / "own-ca.pem"))
    with serve_in_background([scorer], tls=tls) as server:
        client = RewardClient([server.target], tls_ca=ca, unresponsive_after_s=0.4)
        client.submit([grey(1)], scorer="mean", **plain(1, "wait"))
        wait_for(lambda: scorer.scored_ids)
        Path(shutil.copy(ca, tmp_path / "new.pem")).replace(ca)
        wait_for(lambda: client.list_scorers() and connections(server) == 2)
        client.close()
        wait_for(lambda: connections(server) == 0)
        scorer.gate.set()


def connections(server: BackgroundServer) -> int:
    """Of this process to the server."""
    port = int(server.target.rsplit(":", 1)[1])
    return sum(bool(one.raddr) and one.raddr.port == port for one in psutil.Process().net_connections("tcp"))


def tls_paths(folder: Path) -> tuple[Path, Path, Path]:
    return folder / "ca.pem", folder / "server.pem", folder / "server.key"


def replace(own: dict[str, Path], source: Path, name: str = "trainer") -> None:
    """Put another authority's files in the place of one's own, one by one: in between they do not go together."""
    for path, file in zip(
        own.values(), (source / "ca.pem", source / f"{name}.pem", source / f"{name}.key"), strict=True
    ):
        new = path.with_suffix(".new")
        shutil.copy(file, new)
        os.replace(new, path)


def test_a_client_s_files_that_do_not_go_together_are_told_at_once(authority: Path, stranger: Path) -> None:
    pair = {"tls_certificate": authority / "trainer.pem", "tls_key": stranger / "trainer.key"}
    with pytest.raises(ConfigError, match="do not go together"):
        RewardClient(["localhost:1"], tls_ca=authority / "ca.pem", **pair)
    with pytest.raises(ConfigError, match="not in PEM form"):
        RewardClient(["localhost:1"], tls_ca=authority / "trainer.key")
    with pytest.raises(ConfigError, match=r"cannot read .*nope\.pem: No such file"):
        RewardClient(["localhost:1"], tls_ca=authority / "nope.pem")


def test_files_that_do_not_go_together_start_nothing(authority: Path, stranger: Path) -> None:
    tls = {"certificate": authority / "server.pem", "key": stranger / "server.key"}
    with pytest.raises(ConfigError, match="do not go together"), serve_in_background([MeanScorer()], tls=tls):
        pass
    tls = {"certificate": authority / "server.pem", "key": authority / "nope.key"}
    with pytest.raises(ConfigError, match="No such file"), serve_in_background([MeanScorer()], tls=tls):
        pass


def test_limits_know_a_client_by_its_certificate(files: Path, authority: Path) -> None:
    """Two clients at one address; what the first overdraws is not held against the second."""
    make_in(authority, files, "client", "second")
    tls = {"certificate": authority / "server.pem", "key": authority / "server.key", "client_ca": authority / "ca.pem"}
    limits = {"items_per_second": 0.001}
    image = pb.Image(rgb=pb.RgbImage(width=8, height=8, rgb8=bytes(192)))
    message = pb.ScoreRequest(scorer="mean", items=[pb.ScoreItem(images=[image])])
    codes = []
    with serve_in_background([MeanScorer()], tls=tls, client_limits=limits) as server:
        for identity in (authority / "trainer", authority / "trainer", files / "second"):
            ca, key, chain = authority / "ca.pem", identity.with_suffix(".key"), identity.with_suffix(".pem")
            credentials = grpc.ssl_channel_credentials(ca.read_bytes(), key.read_bytes(), chain.read_bytes())
            with grpc.secure_channel(server.target, credentials) as channel:
                try:
                    pb_grpc.RewardServiceStub(channel).Score(message, timeout=10)
                    codes.append(grpc.StatusCode.OK)
                except grpc.RpcError as error:
                    codes.append(error.code())
    assert codes == [grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.OK]
