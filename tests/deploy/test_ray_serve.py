"""GenEval on Ray Serve, from the shipped configuration: our client does not notice."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

from assay.client import RewardClient
from assay.errors import AssayError, AuthenticationError, FingerprintMismatchError, ScorerNotFoundError
from assay.outcomes import Failed, Scored

ROOT = Path(__file__).parents[2]
PICTURE = np.asarray(Image.open(ROOT / "docs/three_apples.png").convert("RGB"))
TASK = {"tag": "counting", "include": [{"class": "apple", "count": 3}], "prompt": "a photo of three apples"}
TOKEN = "a-token-of-this-test"

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
    folder = tmp_path_factory.mktemp("serve")
    (folder / "token").write_text(TOKEN + "\n")
    config = yaml.safe_load((ROOT / "deploy/ray/miniature.yaml").read_text())
    config["http_options"]["port"], port = free_port(), free_port()
    config["grpc_options"]["port"] = port
    (application,) = config["applications"]
    application["args"] = {
        "services": {"geneval": application["args"]["services"]["geneval"]},
        "token_file": str(folder / "token"),
    }
    application["deployments"] = [one for one in application["deployments"] if one["name"] in ("geneval", "ingress")]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    command = [f"{Path(sys.executable).parent}/serve", "run", f"{folder / 'config.yaml'}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    environment |= {"PYTHONPATH": os.pathsep.join([f"{ROOT}", *filter(None, [os.environ.get("PYTHONPATH")])])}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_until_it_answers(f"127.0.0.1:{port}", process, folder / "log")
            yield Serving(f"127.0.0.1:{port}", process)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def wait_until_it_answers(target: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until_s = time.monotonic() + 200
    while True:
        try:
            with RewardClient([target], token=TOKEN, deadline_s=5) as client:
                client.list_scorers()
                return
        except AssayError:  # Serve's proxy answers before the application is there
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until_s, log.read_text()
            time.sleep(1)


def test_the_client_scores_through_serve(target: str) -> None:
    with RewardClient([target], token=TOKEN) as client:
        assert {"counting", "geneval"} <= {info.name for info in client.list_scorers()}
        pictures = [PICTURE] * 40
        outcomes = client.score(pictures, scorer="counting", prompts=[str(TASK["prompt"])] * 40, tasks=[TASK] * 40)
    assert all(isinstance(outcome, Scored) and outcome.value == 1.0 for outcome in outcomes)


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


def test_a_replica_that_dies_under_load_fails_no_call(serving: Serving) -> None:
    """The only one: calls wait for Serve to start another."""
    with RewardClient([serving.target], token=TOKEN, deadline_s=200) as client:
        (replica,) = serving.replicas("geneval")
        asked = [
            client.submit([PICTURE] * 8, scorer="counting", prompts=[str(TASK["prompt"])] * 8, tasks=[TASK] * 8)
            for _ in range(20)
        ]
        asked[0].result(60)
        replica.kill()
        outcomes = [outcome for one in asked for outcome in one.result(200)]
        assert client.statistics.retried > 0
    assert [outcome for outcome in outcomes if not isinstance(outcome, Scored)] == []
