"""`assay bench`: what is sent, what counts, when it is enough, and what is told."""

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from assay_doubles import MeanScorer, grey
from assay_processes import ServerProcess

from assay import cli
from assay.bench.load import Recorder, Sender
from assay.bench.measurement import Bench, Level, Measurement
from assay.bench.payload import Payload, images_of, made_images, tasks_of
from assay.bench.report import as_csv, as_text, row
from assay.bench.session import levels, width_and_height
from assay.bench.windows import Window, is_stable, merge, percentile
from assay.client import RewardClient
from assay.errors import ConfigError, InvalidRequestError
from assay.statistics import AnsweredCall
from assay.tasks import GenEvalTask, ObjectClause
from assay.testing import FaultInjector, serve_in_background

QUICK = ["--window-s", "0.1", "--max-windows", "3", "--size", "16x16", "--batch", "2"]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit code of `assay bench ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["assay", "bench", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


def window(images: int, *latencies_s: float) -> Window:
    return Window(seconds=1.0, latencies_s=list(latencies_s), images=images)


def test_calls_that_the_model_saw_nothing_of_are_no_batches_of_none() -> None:
    level = Level("concurrency", 1)
    calls = [AnsweredCall(1.0, 1, 0.0, 0.0, 0.0, 0.0, batch_items=size) for size in (0, 8, 0, 4)]
    some = Window(seconds=1.0, latencies_s=[1.0] * 4, calls=calls)
    none = Window(seconds=1.0, latencies_s=[1.0], calls=calls[:1])
    assert row(Measurement(level, [some])).batch_items == 6.0
    assert np.isnan(row(Measurement(level, [none])).batch_items)


def test_a_percentile_is_a_measured_value() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, share) for share in (0.2, 0.21, 0.5, 0.95, 1.0)] == [1.0, 2.0, 3.0, 5.0, 5.0]
    assert np.isnan(percentile([], 0.5))


def test_three_windows_within_a_tenth_of_their_mean_are_stable() -> None:
    calm = [window(100, 1.0), window(109, 1.05), window(91, 0.95)]
    assert is_stable(calm, is_open_loop=False)
    assert is_stable([window(5, 9.0), *calm], is_open_loop=False)
    assert not is_stable(calm[:2], is_open_loop=False)
    assert not is_stable([*calm, window(100, 1.5)], is_open_loop=False)
    faster = [window(100, 1.0), window(100, 1.0), window(130, 1.0)]  # 130 is 18 % above the mean of 110
    assert not is_stable(faster, is_open_loop=False)
    assert is_stable(faster, is_open_loop=True)  # more came by chance
    assert not is_stable([window(0), window(0), window(0)], is_open_loop=True)


def test_what_is_reported_are_the_last_three_windows_and_all_failures() -> None:
    windows = [window(1000, 100.0), window(10, 1.0, 2.0), window(20, 3.0), window(30, 4.0)]
    windows[0].failures = Counter({("INTERNAL", "X"): 7})
    one = row(Measurement(Level("rate", 5.0), windows))
    assert (one.seconds, one.requests, one.images_per_s, one.failures) == (3.0, 4, 20.0, 7)
    assert (one.p50_ms, one.p90_ms, one.p99_ms) == (2000.0, 4000.0, 4000.0)


def test_requests_repeat_images_and_tasks_independently() -> None:
    requests = Payload(["a", "b", "c"], [("p", None), ("q", None)]).requests(2)
    first = list(itertools.islice(requests, 3))
    assert [request.images for request in first] == [["a", "b"], ["c", "a"], ["b", "c"]]
    assert [list(request.prompts) for request in first] == [["p", "q"]] * 3


def test_made_images_differ_and_are_the_same_in_every_run() -> None:
    noise = made_images("noise", 24, 16, 4)
    assert {image.shape for image in noise} == {(16, 24, 3)}
    assert len({image.tobytes() for image in noise}) == len(noise)
    np.testing.assert_array_equal(noise[5], made_images("noise", 24, 16, 40)[5])
    assert all(len(np.unique(image.reshape(-1, 3), axis=0)) == 1 for image in made_images("solid", 24, 16, 4))


def test_files_are_sent_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="holds no image"):
        images_of(tmp_path)
    (tmp_path / "b.PNG").write_bytes(b"second")
    (tmp_path / "a.webp").write_bytes(b"first")
    (tmp_path / "notes.txt").write_text("no image")
    assert images_of(tmp_path) == [b"first", b"second"]
    with pytest.raises(InvalidRequestError, match="nowhere"):
        images_of(tmp_path / "nowhere")


def test_geneval_metadata_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    line = {"tag": "counting", "include": [{"class": "cat", "count": 2}], "prompt": "two cats"}
    path.write_text(json.dumps(line) + "\n\n")
    assert tasks_of(path) == [("two cats", GenEvalTask("counting", (ObjectClause("cat", 2),)))]
    for wrong in ("{", "[]", '{"tag": "counting"}'):
        path.write_text(json.dumps(line) + "\n" + wrong)
        with pytest.raises(InvalidRequestError, match=r"tasks\.jsonl:2 is no GenEval metadata"):
            tasks_of(path)
    path.write_text("\n")
    with pytest.raises(InvalidRequestError, match="holds no task"):
        tasks_of(path)


def test_levels_are_read_from_the_flags() -> None:
    assert [str(level) for level in levels(None, None)] == ["concurrency 1", "concurrency 8"]
    assert [str(level) for level in levels(None, "0.5,10")] == ["rate 0.5", "rate 10"]
    assert [str(level) for level in levels("64", "2")] == ["concurrency 64", "rate 2"]
    assert width_and_height("640x480") == (640, 480)
    for concurrency, rate in (("0", None), ("1.5", None), ("1,,2", None), (None, "-1"), (None, "nan"), (None, "inf")):
        with pytest.raises(ConfigError, match="above 0 with commas between"):
            levels(concurrency, rate)
    for size in ("512", "0x5", "5x", "5x5x5"):
        with pytest.raises(ConfigError, match="WIDTHxHEIGHT"):
            width_and_height(size)


def test_the_command_measures_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = [flag for name in ("b.csv", "b.json") for flag in ("--output", tmp_path / name)]
    loads = ["--concurrency", "2", "--rate", "40", "--prompt", "sleep 0.01"]
    with serve_in_background([MeanScorer("other", tasks=("GenEvalTask",)), MeanScorer()]) as server:
        assert run(monkeypatch, *QUICK, *loads, *outputs, "--target", server.target) == 0
        scored = sum(
            server.service.metrics.registry.get_sample_value("assay_items_total", labels) or 0.0
            for labels in [{"scorer": "mean", "code": "OK", "reason": ""}]
        )
    printed = capsys.readouterr().out
    assert "scorer mean, fingerprint f1, images noise 16x16 as rgb, batch 2" in printed
    written = json.loads((tmp_path / "b.json").read_text())
    rows = list(csv.DictReader((tmp_path / "b.csv").read_text().splitlines()))
    assert [(level["load"], level["value"]) for level in written["levels"]] == [("concurrency", 2), ("rate", 40.0)]
    assert sum(2 * level["requests"] for level in written["levels"]) <= scored
    for level, line in zip(written["levels"], rows, strict=True):
        assert f"{level['load']} {level['value']:g}" in printed
        assert float(line["p99_ms"]) == level["p99_ms"]
        assert level["p50_ms"] <= level["p90_ms"] <= level["p95_ms"] <= level["p99_ms"]
        assert level["p50_ms"] >= level["infer_ms"] >= 20.0  # two images, 10 ms each
        assert level["requests"] * 2 / level["seconds"] == pytest.approx(level["images_per_s"])
        assert (level["failures"], level["failed"], level["hedged"]) == (0, [], 0)


@pytest.mark.parametrize(
    ("faults", "prompt", "code", "reason"),
    [
        (None, "refuse", "INVALID_ARGUMENT", "REFUSED"),
        (FaultInjector(aborted=1.0, abort_code=grpc.StatusCode.INTERNAL), "", "ServiceFailedError", "INTERNAL"),
    ],
)
def test_what_got_no_score_is_counted_by_its_reason(
    faults: FaultInjector | None,
    prompt: str,
    code: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serve_in_background([MeanScorer()], faults=faults) as server:
        arguments = ["--concurrency", "1", "--prompt", prompt, "--target", server.target]
        assert run(monkeypatch, *QUICK, *arguments, "--json") == 1
        [level] = json.loads(capsys.readouterr().out)["levels"]
        assert [(entry["code"], entry["reason"]) for entry in level["failed"]] == [(code, reason)]
        assert level["failures"] == level["failed"][0]["images"] > 0
        assert level["images_per_s"] == 0
        assert run(monkeypatch, *QUICK, *arguments) == 1
        assert f"images failed: {code} {reason}" in capsys.readouterr().out


def test_tls_and_token_are_those_of_the_other_commands(
    certificates: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tls = {"certificate": certificates / "server.pem", "key": certificates / "server.key"}
    with serve_in_background([MeanScorer()], tls=tls, token="s3cret") as server:
        arguments = [*QUICK, "--concurrency", "1", "--target", server.target, "--tls-ca", certificates / "ca.pem"]
        assert run(monkeypatch, *arguments, "--token", "wrong") == 1
        monkeypatch.setenv("ASSAY_TOKEN", "s3cret")
        assert run(monkeypatch, *arguments) == 0
    assert "concurrency 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--concurrency", "none"], "--concurrency none: must be whole numbers above 0"),
        (["--output", "b.txt"], "must end in one of .csv, .json"),
        (["--output", "nowhere/b.csv"], "no folder nowhere"),
        (["--content", "cats"], "must be noise or solid"),
        (["--metadata", "x.jsonl", "--count", "3"], "leave out the flags"),
        (["--scorer", "nope"], "no scorer 'nope' there judges a GenEvalTask; served are: mean (any task)"),
    ],
)
def test_wrong_flags_are_named(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve_in_background([MeanScorer()]) as server:
        assert run(monkeypatch, *QUICK, *arguments, "--target", server.target) == 2
    assert message in capsys.readouterr().err


class Measuring:
    """A sender on a server whose scorer can be held up."""

    def __init__(self, client: RewardClient) -> None:
        self.recorder = Recorder()
        payload = Payload([grey(value) for value in range(5)], [("", None)])
        self.sender = Sender(client, "mean", payload, 1, self.recorder)
        self.seen = Window()

    def wait_for(self, condition: Callable[[Window], bool]) -> None:
        deadline_s = time.monotonic() + 60
        while not condition(self.seen):
            assert time.monotonic() < deadline_s, self.seen
            time.sleep(0.02)
            self.seen = merge([self.seen, self.recorder.cut()])


def held(scorer: MeanScorer) -> threading.Event:
    """An event that makes the scorer wait for its gate."""
    holding, score = threading.Event(), scorer.score

    def wait(batch: object) -> object:
        if holding.is_set():
            scorer.gate.wait(30)
        return score(batch)  # type: ignore[arg-type]

    scorer.score = wait  # type: ignore[method-assign, assignment]
    return holding


def test_an_open_loop_counts_the_wait_of_all_who_came_meanwhile() -> None:
    """No coordinated omission: a service that stands still for a second makes a second's worth of slow requests."""
    scorer = MeanScorer()
    with serve_in_background([scorer]) as server, RewardClient([server.target]) as client:
        client.list_scorers()
        measuring, holding = Measuring(client), held(scorer)
        with measuring.sender.open_loop(50.0):
            measuring.wait_for(lambda seen: len(seen.latencies_s) >= 5)
            holding.set()
            time.sleep(1.0)
            holding.clear()
            scorer.gate.set()
            measuring.wait_for(lambda seen: len(seen.latencies_s) >= 60)
        slow = [latency_s for latency_s in measuring.seen.latencies_s if latency_s > 0.2]
        assert len(slow) >= 15  # of some 40 that were due in the first 0.8 s
        assert all(lag >= 0 for lag in measuring.seen.lags_s)
        assert all(
            latency >= lag for latency, lag in zip(measuring.seen.latencies_s, measuring.seen.lags_s, strict=True)
        )


def test_a_closed_loop_keeps_as_many_under_way_and_no_more() -> None:
    scorer = MeanScorer()
    with serve_in_background([scorer], max_batch_items=1) as server, RewardClient([server.target]) as client:
        client.list_scorers()
        measuring, holding = Measuring(client), held(scorer)
        holding.set()
        deadline_s = time.monotonic() + 30

        def wait_for_held(items: int) -> None:
            while server.service.metrics.registry.get_sample_value("assay_held", {"what": "items"}) != items:
                assert time.monotonic() < deadline_s
                time.sleep(0.01)

        with measuring.sender.closed_loop(4):
            wait_for_held(4)
            time.sleep(0.2)
            wait_for_held(4)
            holding.clear()
            scorer.gate.set()
            measuring.wait_for(lambda seen: len(seen.latencies_s) >= 40)
        wait_for_held(0)  # leaving takes the rest from the service


def test_a_service_that_never_settles_is_reported_as_such() -> None:
    with serve_in_background([MeanScorer()]) as server:
        bench = Bench(
            lambda on_call: RewardClient([server.target], on_call=on_call),
            "mean",
            Payload([grey(1)], [("", None)]),
            1,
            window_s=0.05,
            max_windows=2,
        )
        seen: list[int] = []
        measured = bench.measure(Level("concurrency", 1), lambda now: seen.append(len(now.windows)))
    assert seen == [1, 2]
    assert not measured.is_stable
    assert "not stable" in as_text([measured])
    assert row(measured).requests == sum(len(one.latencies_s) for one in measured.windows)
    assert row(measured).batch_items == 1.0
    assert len(as_csv([measured]).splitlines()) == 2


#: A shell starts what is to run in the background with interrupts ignored, and so does all that it starts. They are let
#: through in the new process itself: a `preexec_fn` would run in a fork of this one, amid the threads of its server.
INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from assay.cli import main
main()
"""


def test_ctrl_c_prints_what_was_measured(tmp_path: Path) -> None:
    with serve_in_background([MeanScorer()]) as server:
        output = tmp_path / "b.json"
        arguments = ["--target", server.target, "--size", "16x16", "--concurrency", "1,2", "--output", str(output)]
        process = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTIBLE, "bench", *arguments, "--window-s", "60"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        calls = {"scorer": "mean", "code": "OK", "reason": ""}
        deadline_s = time.monotonic() + 60
        while (server.service.metrics.registry.get_sample_value("assay_calls_total", calls) or 0) < 20:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert "interrupted" in stdout
    assert "concurrency 2" not in stdout
    [level] = json.loads(output.read_text())["levels"]
    assert level["requests"] >= 15
    assert "Traceback" not in stderr


def test_replicas_restarted_one_after_the_other_lose_no_request(start_server: Callable[..., ServerProcess]) -> None:
    """What a deployment does: drain one, start it again on its port, go on to the next."""
    servers = [start_server() for _ in range(3)]
    with RewardClient([server.grpc for server in servers], deadline_s=60) as client:
        measuring = Measuring(client)
        with measuring.sender.closed_loop(6):
            for server in servers:
                answered = len(measuring.seen.latencies_s)
                measuring.wait_for(lambda seen, least=answered + 50: len(seen.latencies_s) >= least)  # type: ignore[misc]
                server.process.send_signal(signal.SIGTERM)
                assert server.wait()[0] == 0
                calls = client.statistics.replicas[server.grpc].calls
                start_server(grpc_port=server.grpc_port)
                measuring.wait_for(
                    lambda _, server=server, calls=calls: client.statistics.replicas[server.grpc].calls > calls  # type: ignore[misc]
                )
        assert measuring.seen.failures == {}
        assert measuring.seen.images == len(measuring.seen.latencies_s) >= 150
