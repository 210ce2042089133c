"""A page whose name was made to point at this machine (DNS rebinding) reads nothing from a server without a guard."""

from collections.abc import Iterator

import httpx
import pytest
from assay_doubles import MeanScorer
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from assay.serving.host_check import check_host
from assay.serving.rejection import Rejection
from assay.serving.settings import ServeConfig
from assay.testing import serve_in_background

TOKEN = "a-token-of-sixteen-or-more"
PATHS = ("/v1/scorers", "/v1/status", "/metrics", "/openapi.json", "/", "/status")


OURS = """localhost LOCALHOST:8080 localhost. page.localhost:1 127.0.0.1:8080 127.0.0.2 [::1]:8080 [::1] 10.1.2.3:80
    rewards.example REWARDS.example:8080 rewards.example. rewards.example.:8080"""
OTHERS = """evil.example evil.example:8080 localhost.evil.example 127.0.0.1.evil.example evillocalhost :8080
    rewards.example.evil x.rewards.example [::1 [::1]evil.example 2130706433 127.0.0.1@evil.example a:b:localhost"""


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """Of a server without a guard, which knows one more name."""
    with (
        serve_in_background([MeanScorer()], http_port=0, allowed_hosts=("Rewards.example.",)) as server,
        httpx.Client(base_url=server.http_url or "") as client,
    ):
        yield client


def status(client: httpx.Client, host: str, path: str = "/v1/scorers", **headers: str) -> int:
    return client.get(path, headers={"host": host, **headers}).status_code


@pytest.mark.parametrize("host", OURS.split())
def test_our_own_names_and_addresses_are_answered(client: httpx.Client, host: str) -> None:
    assert status(client, host) == 200


@pytest.mark.parametrize("host", OTHERS.split())
def test_other_names_are_refused_whatever_they_ask_for(client: httpx.Client, host: str) -> None:
    assert [status(client, host, path) for path in PATHS] == [421] * len(PATHS)
    assert client.post("/v1/score", headers={"host": host}, json={}).status_code == 421
    assert status(client, host, "/healthz") == 200


def test_the_refusal_says_what_is_allowed(client: httpx.Client) -> None:
    error = client.get("/v1/scorers", headers={"host": "evil.example:8080"}).json()["error"]
    assert (error["code"], error["status"]) == (421, "FAILED_PRECONDITION")
    assert error["details"][0]["reason"] == "HOST_UNKNOWN"
    assert error["message"] == (
        "Host = 'evil.example:8080': without token and TLS it must be localhost, 127.0.0.1, rewards.example or an "
        "address; see allowed_hosts"
    )


def test_a_server_on_all_addresses_without_a_guard_wants_names_it_knows() -> None:
    hosts = {"evil.example": 421, "geneval:8081": 421, "10.0.0.7:8081": 200, "localhost": 200}
    with serve_in_background([MeanScorer()], http_port=0, host="0.0.0.0", insecure=True) as server:
        url = (server.http_url or "").replace("0.0.0.0", "127.0.0.1")
        with httpx.Client(base_url=url) as client:
            assert {host: status(client, host) for host in hosts} == hosts


def test_where_a_token_is_wanted_the_name_does_not_matter() -> None:
    with (
        serve_in_background([MeanScorer()], http_port=0, token=TOKEN) as server,
        httpx.Client(base_url=server.http_url or "") as client,
    ):
        assert status(client, "evil.example", authorization=f"Bearer {TOKEN}") == 200
        assert status(client, "evil.example") == 401


@pytest.mark.parametrize("host", ["", " ", ".", ":80", "..", "[]", "[", "[]:80", "[::1", "a b:80:"])
def test_a_header_without_a_name_is_none_of_the_names_that_are_right(host: str) -> None:
    with pytest.raises(Rejection):
        check_host(host, ["", "."])


@pytest.mark.parametrize(
    "host", ["[localhost]", "[a.localhost]", "[127.0.0.1]", "[ours]", "[::1%evil.example]", "[::1].", "[::1]:x"]
)
def test_brackets_hold_an_address_and_nothing_else(host: str) -> None:
    with pytest.raises(Rejection):
        check_host(host, ["ours"])


@pytest.mark.parametrize("host", [" localhost", "localhost:80 ", "\t[::1]\t", " ours "])
def test_blanks_around_a_header_are_no_part_of_it(host: str) -> None:
    check_host(host, ["ours"])


def test_allowed_names_are_kept_as_they_are_compared() -> None:
    config = ServeConfig(allowed_hosts=("Rewards.Example", "gpu_7.", "xn--bcher-kva.example"))
    assert config.allowed_hosts == ("rewards.example", "gpu_7", "xn--bcher-kva.example")


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        ".",
        "rewards.example:8080",
        "http://rewards.example",
        "*.example",
        "a..b",
        "[::1]",
        "::1",
        "b\u00fccher.example",
    ],
)
def test_an_allowed_name_that_no_header_could_match_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="no host name") as raised:
        ServeConfig(allowed_hosts=("good.example", name))
    assert repr(name) in str(raised.value)


@given(st.text(st.characters(codec="latin-1"), max_size=40))
def test_no_header_is_taken_that_names_neither_localhost_nor_an_address(header: str) -> None:
    assume("localhost" not in header.lower() and not any(digit in header for digit in "0123456789"))
    with pytest.raises(Rejection):
        check_host(header.replace("::", ""), [])
