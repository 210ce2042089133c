"""Tokens are exchanged while the server runs; who guesses is told to wait, and keeps nobody else out."""

import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from assay_doubles import MeanScorer, grey, plain
from hypothesis import given
from hypothesis import strategies as st

from assay.client import RewardClient
from assay.client_token import token_arguments
from assay.errors import AuthenticationError, ConfigError
from assay.serving.failed_attempts import MAX_PEERS, WINDOW_S, FailedAttempts
from assay.serving.peers import address_of
from assay.serving.tokens import find_holder, make_token, read_tokens
from assay.testing import BackgroundServer, serve_in_background
from assay.v1 import reward_service_pb2 as pb
from assay.v1 import reward_service_pb2_grpc as pb_grpc
from assay.watched_files import WatchedFiles

OLD, NEW, THIRD = "old-token-0123456789", "new-token-0123456789", "third-token-0123456789"


def exchange(path: Path, text: str | bytes) -> None:
    """As a deployment does: a new file, put in the old one's place."""
    new = path.with_suffix(".new")
    new.write_bytes(text if isinstance(text, bytes) else text.encode())
    os.replace(new, path)


def status(server: BackgroundServer, token: str) -> int:
    return httpx.get(f"{server.http_url}/v1/scorers", headers={"authorization": f"Bearer {token}"}).status_code


def grpc_status(server: BackgroundServer, token: str) -> grpc.StatusCode:
    with grpc.insecure_channel(server.target) as channel:
        try:
            stub = pb_grpc.RewardServiceStub(channel)
            stub.ListScorers(pb.ListScorersRequest(), metadata=[("authorization", f"Bearer {token}")], timeout=10)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


@pytest.fixture
def look_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """At each call, where a server looks at its files once a second."""
    defaults = WatchedFiles.__init__.__defaults__
    assert defaults == (1.0,)
    monkeypatch.setattr(WatchedFiles.__init__, "__defaults__", (0.0,))


@pytest.mark.usefixtures("look_always")
def test_old_and_new_tokens_overlap_and_the_old_one_ends(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    exchange(file, f"# trainers\ntrainer {OLD}\n")
    with serve_in_background([MeanScorer()], http_port=0, token_file=file) as server:
        assert (status(server, OLD), status(server, NEW)) == (200, 401)
        exchange(file, f"trainer {OLD}\ntrainer-2 {NEW}\n\n{THIRD}\n")
        assert [status(server, token) for token in (OLD, NEW, THIRD)] == [200, 200, 200]
        with RewardClient([server.target], token=NEW) as client:
            client.score([grey(0)], scorer="mean", **plain(1))
        exchange(file, f"trainer-2 {NEW}\n")
        assert [status(server, token) for token in (OLD, NEW, THIRD)] == [401, 200, 401]
        with RewardClient([server.target], token=OLD) as client, pytest.raises(AuthenticationError):
            client.list_scorers()


@pytest.mark.usefixtures("look_always")
@pytest.mark.parametrize(
    "broken", ["", "# none\n", "a name and a token\n", "na/me token-0123456789\n", b"\xff\xfe\x00", None]
)
def test_a_broken_file_leaves_the_tokens_in_force_and_is_counted(
    tmp_path: Path, broken: str | bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    """An open door would be the worst of answers, a locked one the second worst."""
    file = tmp_path / "tokens"
    exchange(file, OLD)
    with serve_in_background([MeanScorer()], http_port=0, token_file=file) as server:
        file.unlink() if broken is None else exchange(file, broken)
        assert (status(server, OLD), status(server, NEW), status(server, "none")) == (200, 401, 401)
        assert "the former stays in force" in caplog.text
        assert "token-0123456789" not in caplog.text
        exposed = server.service.metrics.exposition().decode()
        assert 'assay_failed_reloads_total{what="token_file"} 1.0' in exposed
        exchange(file, NEW)
        assert (status(server, OLD), status(server, NEW)) == (401, 200)


def test_files_are_looked_at_once_a_while_alone(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("1")
    watched = WatchedFiles([file], file.read_text, lambda: None, look_every_s=1000)
    file.write_text("22")
    assert watched.current() == "1"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "the file holds none"),
        ("one two three", "line 1: give TOKEN, or NAME TOKEN"),
        ("-x token", "line 1: give TOKEN, or NAME TOKEN"),
    ],
)
def test_files_that_make_no_sense_are_refused_without_quoting_them(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(line)
    with pytest.raises(ConfigError, match=message) as caught:
        read_tokens(file)
    assert "three" not in str(caught.value)


def test_who_has_no_name_is_called_the_same_whatever_lines_come_and_go(tmp_path: Path) -> None:
    file = tmp_path / "tokens"

    def names() -> list[str]:
        return [token.name for token in read_tokens(file)]

    file.write_text(f"{OLD}\nprometheus {THIRD}\n{NEW}\n")
    assert names() == ["token-de273dfa", "prometheus", "token-da4bde78"]  # as sha256sum has them
    file.write_text(f"# the old one is out\n{NEW}\n")
    assert names() == ["token-da4bde78"]


def test_short_tokens_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_token("x", "short", "token")
    assert "can be guessed" in caplog.text
    caplog.clear()
    make_token("x", OLD, "token")
    assert caplog.text == ""


@given(st.text(max_size=30), st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=4, unique=True))
def test_a_holder_is_who_shows_the_very_token(shown: str, secrets: list[str]) -> None:
    tokens = [make_token(f"holder of {secret}", secret, "test") for secret in secrets]
    expected = f"holder of {shown}" if shown in secrets else None
    assert find_holder(tokens, f"Bearer {shown}".encode()) == expected
    assert find_holder(tokens, f"Basic {shown}".encode()) is None
    assert find_holder(tokens, shown.encode()) is None


@pytest.fixture
def guarded() -> Iterator[BackgroundServer]:
    with serve_in_background([MeanScorer()], http_port=0, token=OLD, max_failed_attempts_per_minute=3) as server:
        yield server


def test_who_guesses_over_http_is_told_to_wait_and_keeps_nobody_out(guarded: BackgroundServer) -> None:
    assert [status(guarded, "wrong") for _ in range(5)] == [401, 401, 401, 429, 429]
    refused = httpx.get(f"{guarded.http_url}/v1/scorers", headers={"authorization": "Bearer wrong"})
    assert refused.json()["error"]["details"][0]["reason"] == "TOO_MANY_FAILED_ATTEMPTS"
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert status(guarded, OLD) == 200  # from the same address
    assert httpx.get(f"{guarded.http_url}/healthz").status_code == 200
    exposed = guarded.service.metrics.exposition().decode()
    assert 'assay_failed_authentications_total{door="http",why="TOKEN_WRONG"} 6.0' in exposed


def test_a_header_does_not_make_a_caller_somebody_else(guarded: BackgroundServer) -> None:
    """One who guesses and says each time that it comes from elsewhere."""
    seen = [
        httpx.get(
            f"{guarded.http_url}/v1/scorers",
            headers={"authorization": "Bearer wrong", "x-forwarded-for": f"203.0.113.{number}"},
        ).status_code
        for number in range(5)
    ]
    assert seen == [401, 401, 401, 429, 429]


def test_who_guesses_over_grpc_is_told_to_wait_and_keeps_nobody_out(guarded: BackgroundServer) -> None:
    given_codes = [grpc_status(guarded, "wrong") for _ in range(5)]
    assert given_codes == [grpc.StatusCode.UNAUTHENTICATED] * 3 + [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2
    assert grpc_status(guarded, OLD) == grpc.StatusCode.OK
    exposed = guarded.service.metrics.exposition().decode()
    assert 'assay_failed_authentications_total{door="grpc",why="TOKEN_WRONG"} 5.0' in exposed
    with (
        RewardClient([guarded.target], token="wrong") as client,
        pytest.raises(AuthenticationError, match="too many calls without a right token"),
    ):
        client.list_scorers()


def test_attempts_are_counted_by_the_minute_and_peers_are_bounded() -> None:
    now = [0.0]
    attempts = FailedAttempts(2, lambda: now[0])
    assert [attempts.add("a"), attempts.add("a"), attempts.add("a"), attempts.add("b")] == [None, None, WINDOW_S, None]
    now[0] = 59.0
    assert attempts.add("a") == 1.0
    now[0] = 60.0
    assert attempts.add("a") is None
    for number in range(MAX_PEERS):
        attempts.add(f"10.0.{number}")
    assert len(attempts._peers) == MAX_PEERS
    assert "a" not in attempts._peers


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("ipv4:10.1.2.3:5000", "10.1.2.3"),
        ("ipv6:%5B::1%5D:5000", "::1"),
        ("ipv6:[2001:db8::1]:5000", "2001:db8::1"),
        ("unix:/run/x.sock", "unix:/run/x.sock"),
    ],
)
def test_addresses_are_without_their_ports(peer: str, expected: str) -> None:
    assert address_of(peer) == expected


@pytest.mark.usefixtures("look_always")
def test_a_client_shows_the_token_that_its_file_holds_now(tmp_path: Path) -> None:
    """Rotation in the midst of a run: the service's file first, then the client's; and both at once."""
    served, own = tmp_path / "tokens", tmp_path / "token"
    exchange(served, OLD)
    exchange(own, f"{OLD}\n")
    with (
        serve_in_background([MeanScorer()], token_file=served) as server,
        RewardClient([server.target], token_file=own, deadline_s=20) as client,
    ):
        client.score([grey(0)], scorer="mean", **plain(1))
        exchange(served, f"{OLD}\n{NEW}\n")
        exchange(own, NEW)
        client.score([grey(0)], scorer="mean", **plain(1))
        exchange(served, NEW)
        client.score([grey(0)], scorer="mean", **plain(1))
        exchange(served, THIRD)
        with pytest.raises(AuthenticationError):
            client.score([grey(0)], scorer="mean", **plain(1))
        exchange(own, "")  # a deployment in the midst of its work: what was read before stays
        with pytest.raises(AuthenticationError):
            client.score([grey(0)], scorer="mean", **plain(1))
        exchange(own, THIRD)
        assert client.score([grey(0)], scorer="mean", **plain(1))[0] is not None


def test_a_call_that_was_refused_while_the_token_was_exchanged_is_sent_again(tmp_path: Path) -> None:
    """The client has looked at its file a moment ago and does not look again for a second, unless it is refused."""
    own = tmp_path / "token"
    exchange(own, OLD)
    with (
        serve_in_background([MeanScorer()], token=NEW) as server,
        RewardClient([server.target], token_file=own, deadline_s=20) as client,
    ):
        with pytest.raises(AuthenticationError):
            client.list_scorers()
        exchange(own, NEW)
        client.list_scorers()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"\n", "holds no token"),
        (b"a b", "printable ASCII"),
        (b"\xff", "no text in UTF-8"),
    ],
)
def test_a_client_s_token_file_without_a_token_is_an_error_at_once(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    own = tmp_path / "token"
    if content is not None:
        own.write_bytes(content)
    with pytest.raises(ConfigError, match=f"token_file = {own}.*{message}"):
        RewardClient(["localhost:1"], token_file=own)
    with pytest.raises(ConfigError, match="not both"):
        RewardClient(["localhost:1"], token_file=own, token=OLD)


def test_commands_know_a_file_s_token_however_they_are_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_TOKEN", "")
    monkeypatch.setenv("ASSAY_TOKEN_FILE", str(tmp_path / "token"))
    assert token_arguments() == {"token_file": tmp_path / "token"}
    monkeypatch.setenv("ASSAY_TOKEN", OLD)
    assert token_arguments() == {"token": OLD}
    assert token_arguments(NEW) == {"token": NEW}
    monkeypatch.setenv("ASSAY_TOKEN", "")
    monkeypatch.delenv("ASSAY_TOKEN_FILE")
    assert token_arguments() == {}
