"""The services on Ray Serve, from the shipped configuration: our client does not notice."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

from assay.client import RewardClient
from assay.errors import AssayError, AuthenticationError, FingerprintMismatchError, ScorerNotFoundError
from assay.outcomes import Failed, Outcome, Scored

ROOT = Path(__file__).parents[2]
PICTURE = np.asarray(Image.open(ROOT / "docs/three_apples.png").convert("RGB"))
TASK = {"tag": "counting", "include": [{"class": "apple", "count": 3}], "prompt": "a photo of three apples"}
TOKEN = "a-token-of-this-test"
Asked = Future[list[Outcome]]
SCORERS = {"counting", "geneval", "orm", "relation"}  # some of each service

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Serving:
    """What listens, and the process that started Ray: its descendants are the cluster."""

    target: str
    process: subprocess.Popen[bytes]

    def replicas(self, service: str) -> list[psutil.Process]:
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if f"ServeReplica:assay:{service}" in " ".join(process.cmdline()):
                    found.append(process)
        return found


@pytest.fixture(scope="module")
def target(serving: Serving) -> str:
    return serving.target


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """The commands of docs/ray_serve.md, with ports of this test and replicas that are started after 2 s, not 30."""
    folder = tmp_path_factory.mktemp("serve")
    (folder / "token").write_text(TOKEN + "\n")
    config = yaml.safe_load((ROOT / "deploy/ray/miniature.yaml").read_text())
    config["http_options"]["port"], port, dashboard = free_port(), free_port(), free_port()
    config["grpc_options"]["port"] = port
    (application,) = config["applications"]
    application["args"]["token_file"] = str(folder / "token")
    for deployment in application["deployments"]:
        if "autoscaling_config" in deployment:
            deployment["autoscaling_config"]["upscale_delay_s"] = 2
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    commands = Path(sys.executable).parent
    # With two, a second replica of the one service leaves no room for one of another.
    start = [f"{commands}/ray", "start", "--head", "--block", "--num-cpus=3", f"--port={free_port()}"]
    start += ["--disable-usage-stats", f"--dashboard-port={dashboard}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token_hex(32)}
    environment |= {"PYTHONPATH": os.pathsep.join([f"{ROOT}", *filter(None, [os.environ.get("PYTHONPATH")])])}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(start, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            command = [f"{commands}/serve", "deploy", "--address", f"http://127.0.0.1:{dashboard}"]
            deploy([*command, f"{folder / 'config.yaml'}"], environment, process, folder / "log")
            wait_until_it_answers(f"127.0.0.1:{port}", process, folder / "log")
            yield Serving(f"127.0.0.1:{port}", process)
        finally:
            cluster = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            for one in [process, *cluster]:
                with suppress(psutil.Error):
                    one.kill()


def deploy(command: list[str], environment: dict[str, str], process: subprocess.Popen[bytes], log: Path) -> None:
    """`serve deploy`, tried again until Ray's dashboard listens."""
    until_s = time.monotonic() + 100
    while (done := subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)).returncode != 0:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until_s, done.stdout + done.stderr + log.read_text()
        time.sleep(1)


def wait_until_it_answers(target: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until_s = time.monotonic() + 200
    while True:
        try:
            with RewardClient([target], token=TOKEN, deadline_s=5) as client:
                if {info.name for info in client.list_scorers()} >= SCORERS:
                    return
        except AssayError:  # Serve's proxy answers before the application is there
            pass
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until_s, log.read_text()
        time.sleep(1)


def test_the_client_scores_through_serve(target: str) -> None:
    with RewardClient([target], token=TOKEN) as client:
        pictures = [PICTURE] * 40
        outcomes = client.score(pictures, scorer="counting", prompts=[str(TASK["prompt"])] * 40, tasks=[TASK] * 40)
    assert all(isinstance(outcome, Scored) and outcome.value == 1.0 for outcome in outcomes)


def test_each_service_answers_behind_the_one_port(target: str) -> None:
    asked = {
        "tag": "position",
        "include": [{"class": "kite", "count": 1}, {"class": "apple", "position": ["left of", 0]}],
    }
    with RewardClient([target], token=TOKEN) as client:
        (belief,) = client.score([PICTURE], scorer="orm", prompts=[str(TASK["prompt"])], tasks=[None])
        (relation,) = client.score([PICTURE], scorer="relation", prompts=["an apple left of a kite"], tasks=[asked])
    assert isinstance(belief, Scored)
    assert 0 < belief.value < 1
    assert isinstance(relation, Scored)
    assert relation.value == 0.0  # there is no kite


def test_an_item_that_cannot_be_scored_fails_alone(target: str) -> None:
    with RewardClient([target], token=TOKEN) as client:
        good, bad = client.score([PICTURE] * 2, scorer="counting", prompts=["", ""], tasks=[TASK, None])
    assert isinstance(good, Scored)
    assert isinstance(bad, Failed)


def test_refusals_have_their_names(target: str) -> None:
    with RewardClient([target], token="another") as client, pytest.raises(AuthenticationError, match="not one of"):
        client.list_scorers()
    with RewardClient([target], token=TOKEN) as client:
        with pytest.raises(ScorerNotFoundError, match=r"no scorer 'beauty' .* counting"):
            client.score([PICTURE], scorer="beauty", prompts=[""], tasks=[None])
        with pytest.raises(FingerprintMismatchError, match="expected was 0123"):
            client.score([PICTURE], scorer="counting", prompts=[""], tasks=[TASK], expected_fingerprint="0123")


def calls(client: RewardClient, number: int) -> list[Asked]:
    """Calls of eight pictures each, on their way at once."""
    pictures, prompts, tasks = [PICTURE] * 8, [str(TASK["prompt"])] * 8, [TASK] * 8
    return [client.submit(pictures, scorer="counting", prompts=prompts, tasks=tasks) for _ in range(number)]


def unscored(asked: list[Asked]) -> list[Outcome]:
    return [outcome for one in asked for outcome in one.result(200) if not isinstance(outcome, Scored)]


def test_replicas_that_die_under_load_fail_no_call(serving: Serving) -> None:
    """All at once: calls wait for Serve to start others."""
    with RewardClient([serving.target], token=TOKEN, deadline_s=200) as client:
        asked = calls(client, 20)
        asked[0].result(60)
        replicas = serving.replicas("geneval")
        assert replicas
        for replica in replicas:
            replica.kill()
        assert unscored(asked) == []
        assert client.statistics.retried > 0


def test_under_load_a_service_gets_more_replicas(serving: Serving) -> None:
    """`autoscaling_config` of the file: more than four calls on their way for each replica start another."""
    until_s = time.monotonic() + 150
    with RewardClient([serving.target], token=TOKEN, deadline_s=200) as client:
        while len(serving.replicas("geneval")) < 2:
            assert time.monotonic() < until_s
            assert unscored(calls(client, 16)) == []
