"""A replica that takes connections and says nothing: when its calls are given up."""

import asyncio
import logging
import socket
import time
from collections.abc import Iterator

import pytest

from assay.background_loop import run_in_background
from assay.channel_security import ChannelSecurity
from assay.circuit_breaker import UNANSWERED_CALLS
from assay.replicas import Address, Replica, ReplicaUnavailable


@pytest.fixture
def silent() -> Iterator[str]:
    """The kernel takes what comes, and nobody answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def test_copies_that_won_elsewhere_do_not_hide_that_it_is_silent(silent: str, caplog: pytest.LogCaptureFixture) -> None:
    async def give_up() -> None:
        replica = Replica(Address(silent), ChannelSecurity(), 0.2, lambda: None)
        call = asyncio.create_task(replica.call("Score", b"", 60))
        await asyncio.sleep(0.1)
        for _ in range(UNANSWERED_CALLS):
            replica.unanswered()
        assert replica.breaker.is_open
        assert replica.last_failure is not None
        assert replica.last_failure.reason == "UNANSWERED"
        await replica.check()
        with pytest.raises(ReplicaUnavailable, match="answers nothing"):
            await asyncio.wait_for(call, 10)
        await replica.close()

    with caplog.at_level(logging.WARNING, "assay.client"):
        run_in_background(give_up()).result(30)
    assert f"{silent} left {UNANSWERED_CALLS} calls in a row unanswered" in caplog.text


def test_who_answers_while_it_is_asked_whether_it_lives_keeps_its_calls(silent: str) -> None:
    async def answer_meanwhile() -> None:
        replica = Replica(Address(silent), ChannelSecurity(), 0.2, lambda: None)
        call = asyncio.create_task(replica.call("Score", b"", 60))
        await asyncio.sleep(0.1)
        check = asyncio.create_task(replica.check())
        await asyncio.sleep(0.02)
        replica._last_answer_s = time.monotonic()  # as another call's answer does
        await check
        assert not replica.breaker.is_open
        assert replica.is_busy
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await replica.close()

    run_in_background(answer_meanwhile()).result(30)
