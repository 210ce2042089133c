"""What docs/containers.md promises, on a real engine: healthy, small, confined, closed without the token, back after a
crash, shared between replicas that may come, hang and go.

The project and its ports are the test's own, so other containers are not disturbed; the images are the compose file's.
"""

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import httpx
import numpy as np
import pytest
import yaml
from PIL import Image

from assay.outcomes import Scored
from assay.serving.scorer import Sample, Scorer
from assay.tasks import GenEvalTask, OutcomeTask, SpatialTask, Task
from services.geneval.service import build_scorers as geneval
from services.spatial.service import build_scorers as spatial
from services.verifier.service import build_scorers as verifier

pytestmark = pytest.mark.docker
ROOT = Path(__file__).parents[1]

#: A training of some seconds.
TINY = ["sampling.groups_per_epoch=4", "sampling.group_size=8", "sampling.num_steps=4", "run.epochs=1"]
TINY += ["evaluation.num_images=16", "evaluation.num_steps=4", "evaluation.gallery_prompts=4"]

#: Tries what a process in a container must not be able to do, and prints what became of it.
SELF_EXAMINATION = """
import json, os, pathlib
def writable(folder):
    try:
        (pathlib.Path(folder) / "written").write_text("")
    except OSError:
        return False
    return True
status = dict(line.split(":\\t", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
print(json.dumps({
    "user": os.getuid(), "capabilities": int(status["CapBnd"], 16), "no_new_privileges": status["NoNewPrivs"],
    "writable": [folder for folder in ("/", "/app", "/opt/venv", "/home/assay", "/tmp", "/models") if writable(folder)],
}))
"""
#: Number 1 is the engine's init; its only child is the service.
KILL_THE_SERVICE = "import os; os.kill(int(open('/proc/1/task/1/children').read().split()[0]), 9)"


#: Scores without a pause for some seconds, by the services' name, and prints what the client saw of it.
SCORE_FOR_A_WHILE = """
import json, os, pathlib, sys, time
import numpy as np
from assay.client import RewardClient
from assay.outcomes import Scored
picture = np.zeros((64, 64, 3), np.uint8)
task = {"tag": "counting", "include": [{"class": "apple", "count": 1}], "prompt": "a photo of one apple"}
token = pathlib.Path(os.environ["ASSAY_TOKEN_FILE"]).read_text().strip()
until_s, scored, failed, slowest_s = time.monotonic() + float(sys.argv[1]), 0, 0, 0.0
with RewardClient(["geneval:50051"], token=token, deadline_s=60) as client:
    while time.monotonic() < until_s:
        began_s = time.monotonic()
        outcomes = client.score([picture] * 4, scorer="counting", prompts=[task["prompt"]] * 4, tasks=[task] * 4)
        scored += sum(isinstance(outcome, Scored) for outcome in outcomes)
        failed += sum(not isinstance(outcome, Scored) for outcome in outcomes)
        slowest_s = max(slowest_s, time.monotonic() - began_s)
        assert len(outcomes) == 4
        print(json.dumps({
            "scored": scored, "failed": failed, "slowest_s": slowest_s,
            "calls": client.statistics.calls, "retried": client.statistics.retried, "hedged": client.statistics.hedged,
            "replicas": {name: one.calls for name, one in client.statistics.replicas.items()},
        }), flush=True)
"""


class Judge(NamedTuple):
    """A service: its ports, its scorers, the name of one, and a task for that: itself, as JSON, on the command line."""

    grpc_port: int
    http_port: int
    build_scorers: Callable[[dict[str, Any]], list[Scorer]]
    scorer: str
    task: Task
    json_task: dict[str, Any]
    flags: Sequence[str]


COUNTING = ("--class", "apple", "--count", "3")
THREE_APPLES = {"tag": "counting", "include": [{"class": "apple", "count": 3}]}
RELATION = {"subject": "apple", "relation": "left of", "reference": "umbrella"}
RELATE = ("--relation", *RELATION.values())
PROMPT = ("--prompt", "a photo of three apples")
JUDGES = {
    "geneval": Judge(50051, 8081, geneval, "counting", GenEvalTask.from_metadata(THREE_APPLES), THREE_APPLES, COUNTING),
    "verifier": Judge(50054, 8084, verifier, "orm", OutcomeTask(), {"type": "outcome"}, PROMPT),
    "spatial": Judge(
        50055, 8085, spatial, "relation", SpatialTask(**RELATION), {"type": "spatial", **RELATION}, RELATE
    ),
}
REPLICAS = 3
#: What docs/containers.md promises of an image with torch for the CPU.
MOST_BYTES = 2_500_000_000


def free_ports(number: int) -> int:
    """The first of so many ports in a row that nobody listens on."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first = int(probe.getsockname()[1])
        with ExitStack() as held:
            try:
                for port in range(first, first + number):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except (OSError, OverflowError):
                continue
        return first


def wait_until_healthy(container: str) -> None:
    asked = ["docker", "inspect", "--format", "{{.State.Health.Status}}", container]
    deadline = time.monotonic() + 60
    while subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip() != "healthy":
        assert time.monotonic() < deadline
        time.sleep(0.5)


class Stack:
    """A compose project of this test.

    Args:
        secrets: with the folders `services` and `client`.
        tls: whether they hold certificates, and the services use them.
    """

    def __init__(self, secrets: Path, tls: bool = False) -> None:
        self.files = ["-f", "docker-compose.yml", *(["-f", "docker-compose.tls.yml"] if tls else [])]
        self.first_port = free_ports(2 * REPLICAS + 4)
        self.port, self.http_port = self.first_port, self.first_port + REPLICAS
        self.verifier_port, self.spatial_port = (self.first_port + 2 * REPLICAS + n for n in (0, 2))
        self.services_token, self.token_file = secrets / "services/token", secrets / "client/token"
        self.environment = {
            **os.environ,
            "COMPOSE_PROJECT_NAME": f"assay-test-{'tls-' if tls else ''}{os.getpid()}",
            "ASSAY_SERVICE_SECRETS": str(secrets / "services"),
            "ASSAY_TRAINER_SECRETS": str(secrets / "client"),
            "ASSAY_PORT": f"{self.port}-{self.port + REPLICAS - 1}",
            "ASSAY_HTTP_PORT": f"{self.http_port}-{self.http_port + REPLICAS - 1}",
            "ASSAY_VERIFIER_PORT": str(self.verifier_port),
            "ASSAY_VERIFIER_HTTP_PORT": str(self.verifier_port + 1),
            "ASSAY_SPATIAL_PORT": str(self.spatial_port),
            "ASSAY_SPATIAL_HTTP_PORT": str(self.spatial_port + 1),
        }

    def compose(self, *arguments: str, timeout_s: float = 120) -> bytes:
        """Standard output of `docker compose ARGUMENTS`; what it says beside goes to the test's log."""
        done = subprocess.run(
            ["docker", "compose", *self.files, "--profile", "train", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            timeout=timeout_s,
        )
        print(f"$ docker compose {' '.join(arguments)}\n{done.stderr.decode()}")
        assert done.returncode == 0, done.stderr.decode() + done.stdout.decode()
        return done.stdout

    def python(self, service: str, code: str) -> str:
        return self.compose("exec", "-T", service, "python", "-c", code).decode()

    def state(self, service: str) -> dict[str, object]:
        container = self.compose("ps", "--all", "--quiet", service).decode().strip()
        inspected = subprocess.run(["docker", "inspect", container], capture_output=True, check=True).stdout
        (found,) = json.loads(inspected)
        return {**found["State"], "RestartCount": found["RestartCount"]}

    def published(self, service: str, port: int) -> str:
        """Where the first replica's port is on the host."""
        return self.compose("port", service, str(port)).decode().strip()

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "--quiet", service).decode().split()

    @contextmanager
    def replicas(self) -> Iterator[None]:
        """Inside, GenEval has several."""
        self.compose("up", "--wait", "--no-recreate", "--scale", f"geneval={REPLICAS}", "geneval", timeout_s=300)
        try:
            yield
        finally:
            self.compose("up", "--wait", "--no-recreate", "--scale", "geneval=1", "geneval", timeout_s=120)

    def start(self, *command: str, name: str = "") -> subprocess.Popen[str]:
        """A command in the trainer's container, which knows the services by their names."""
        run = ["docker", "compose", *self.files, "--profile", "train", "run", "--rm", "-T", "--no-deps"]
        run += ["--name", name] if name else []
        return subprocess.Popen(
            [*run, "--entrypoint", command[0], "trainer", *command[1:]],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @contextmanager
    def silence(self, container: str, fault: Literal["pause", "partition"]) -> Iterator[None]:
        """Inside, the container answers nothing: it does not run, or no packet reaches it."""
        network = f"{self.environment['COMPOSE_PROJECT_NAME']}_rewards"
        begin = {"pause": ["pause"], "partition": ["network", "disconnect", network]}[fault]
        end = {"pause": ["unpause"], "partition": ["network", "connect", "--alias", "geneval", network]}[fault]
        subprocess.run(["docker", *begin, container], check=True)
        try:
            yield
        finally:
            subprocess.run(["docker", *end, container], check=True)

    def score(
        self,
        token_file: Path | None,
        service: str = "geneval",
        port: int = 50051,
        task: Sequence[str] = COUNTING,
        tls_ca: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ASSAY_")}
        if token_file is not None:
            environment["ASSAY_TOKEN_FILE"] = str(token_file)
        target = f"localhost:{self.published(service, port).rpartition(':')[2]}"
        asked = ["docs/three_apples.png", *task, "--json", "--target", target]
        asked += ["--tls-ca", str(tls_ca)] if tls_ca else []
        return subprocess.run(
            [sys.executable, "-m", "assay.cli", "score", *asked],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=90,
        )


def make_secrets(folder: Path) -> Path:
    """As `make secrets/client/token` does."""
    for name in ("services", "client"):
        (folder / name).mkdir(mode=0o755, parents=True)
        replace(folder / name / "token", "a-token-of-this-test\n")
    return folder


def replace(file: Path, text: str) -> None:
    """By another one that is renamed."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o444)
    new.rename(file)


@contextmanager
def running(stack: Stack, *services: str) -> Iterator[Stack]:
    """The services, up and healthy."""
    try:
        try:
            stack.compose("up", "--wait", *services, timeout_s=300)
        except AssertionError:
            print(stack.compose("logs").decode())
            raise
        yield stack
    finally:
        stack.compose("down", "--volumes")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The images, built, and the services, up and healthy."""
    if reason := _why_there_is_no_engine():
        pytest.skip(reason)
    stack = Stack(make_secrets(tmp_path_factory.mktemp("stack") / "secrets"))
    stack.compose("build", "geneval", "verifier", "spatial", "trainer", timeout_s=3000)
    with running(stack, "geneval", "verifier", "spatial"):
        yield stack


def test_a_picture_is_scored_through_the_published_port(stack: Stack) -> None:
    done = stack.score(stack.token_file)
    assert done.returncode == 0, done.stderr
    assert '"strict_correct": 1.0' in done.stdout


@pytest.mark.parametrize("service", JUDGES)
def test_a_judge_scores_as_it_does_outside(stack: Stack, service: str) -> None:
    """Over gRPC and over HTTP. How good its scores are is not the container's: tests/miniature has that."""
    judge = JUDGES[service]
    done = stack.score(stack.token_file, service, judge.grpc_port, [*judge.flags, "--scorer", judge.scorer])
    assert done.returncode == 0, done.stderr
    (over_grpc,) = json.loads(done.stdout)
    over_http = ask_over_http(stack, service)
    config = yaml.safe_load((ROOT / f"configs/services/{service}.yaml").read_text())["scorer"]
    scorer = next(one for one in judge.build_scorers(config) if one.info.name == judge.scorer)
    picture = np.asarray(Image.open(ROOT / "docs/three_apples.png").convert("RGB"))
    (outside,) = scorer.score([Sample("", (picture,), "a photo of three apples", judge.task)])
    assert isinstance(outside, Scored)
    for item in (over_grpc, over_http):
        assert item["score"]["value"] == pytest.approx(outside.value, abs=1e-4)


def ask_over_http(stack: Stack, service: str) -> dict[str, Any]:
    judge = JUDGES[service]
    picture = base64.b64encode((ROOT / "docs/three_apples.png").read_bytes()).decode()
    images = [{"format": "png", "data": picture}]
    item = {"prompt": "a photo of three apples", "task": judge.json_task, "images": images}
    answered = httpx.post(
        f"http://{stack.published(service, judge.http_port)}/v1/score",
        json={"scorer": judge.scorer, "items": [item]},
        headers={"authorization": f"Bearer {stack.token_file.read_text().strip()}"},
        timeout=60,
    )
    assert answered.status_code == 200, answered.text
    (result,) = answered.json()["results"]
    return dict(result)


def test_a_call_without_the_token_is_refused(stack: Stack) -> None:
    done = stack.score(None)
    assert done.returncode != 0
    assert "authorization: Bearer" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_service_has_no_rights_and_writes_only_where_it_may(stack: Stack) -> None:
    found = json.loads(stack.python("geneval", SELF_EXAMINATION))
    assert found == {"user": 10001, "capabilities": 0, "no_new_privileges": "1", "writable": ["/tmp", "/models"]}


def test_a_training_in_a_container_learns_from_the_service_and_leaves_its_lora(stack: Stack) -> None:
    training = ["train", "configs/train/miniature_counting.yaml", *TINY]
    stack.compose("run", "--rm", "-T", "trainer", *training, timeout_s=600)
    packed = ["--no-deps", "--entrypoint", "tar", "trainer", "-c", "-C", "/runs", "."]
    archive = stack.compose("run", "--rm", "-T", *packed)
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        metrics = files.extractfile("./miniature_counting/metrics.jsonl")
        assert metrics is not None
        (line,) = [json.loads(line) for line in metrics.read().splitlines()]
        assert "./miniature_counting/lora/pytorch_lora_weights.safetensors" in files.getnames()
    assert (line["epoch"], line["unscored"], line["groups_dropped"]) == (1, 0, 0)


def test_make_train_on_the_host_learns_from_the_container(stack: Stack, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ASSAY_")}
    environment |= {"TARGET": stack.published("geneval", 50051), "ASSAY_TOKEN_FILE": str(stack.token_file)}
    settings = " ".join([*TINY, f"run.output={tmp_path}/run"])
    done = subprocess.run(
        ["make", "train", f"VENV={sys.prefix}", f"ARGS={settings}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    assert (line["unscored"], line["groups_dropped"]) == (0, 0)


def test_a_service_that_crashes_under_load_comes_back_and_no_call_fails(stack: Stack) -> None:
    """The only replica: the client waits for it and tries again."""
    before = stack.state("geneval")["RestartCount"]
    scoring = stack.start("python", "-c", SCORE_FOR_A_WHILE, "30")
    assert scoring.stdout is not None
    assert scoring.stdout.readline()
    stack.python("geneval", KILL_THE_SERVICE)
    output, errors = scoring.communicate(timeout=200)
    assert scoring.returncode == 0, errors
    seen = json.loads(output.splitlines()[-1])
    print(seen)
    assert seen["failed"] == 0
    assert seen["retried"] > 0, "the service was gone between two calls"
    wait_until_healthy(stack.containers("geneval")[0])
    assert stack.state("geneval")["RestartCount"] == int(str(before)) + 1


def test_a_token_that_replaces_another_is_taken_without_a_restart(stack: Stack) -> None:
    """As docs/containers.md says it is done: by rename, which does not reach into a mount of the file alone."""
    old, new = stack.token_file.read_text(), "another-token-of-this-test\n"
    theirs = stack.token_file.with_name("theirs")
    replace(theirs, new)
    assert stack.score(theirs).returncode != 0
    try:
        replace(stack.services_token, new)
        wait_until(lambda: stack.score(theirs).returncode == 0)
        assert "not one of" in stack.score(stack.token_file).stderr
    finally:
        replace(stack.services_token, old)
    wait_until(lambda: stack.score(stack.token_file).returncode == 0)


def wait_until(it_is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not it_is_so():
        assert time.monotonic() < deadline
        time.sleep(1)


@pytest.mark.parametrize("image", ["assay-geneval", "assay-verifier", "assay-spatial", "assay-trainer"])
def test_an_image_is_no_larger_than_promised(stack: Stack, image: str) -> None:
    look_at_the_size_of(image)


def look_at_the_size_of(image: str) -> None:
    version = "from importlib.metadata import version; print(version('torch'))"
    torch = subprocess.run(
        ["docker", "run", "--rm", "--entrypoint", "python", image, "-c", version],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    if not torch.endswith("+cpu"):
        pytest.skip(f"torch {torch} is no build for the CPU: docs/containers.md says how images become small")
    asked = ["docker", "image", "inspect", "--format", "{{.Size}}", image]
    assert int(subprocess.run(asked, capture_output=True, check=True).stdout) < MOST_BYTES


def test_what_fetches_models_is_in_the_image(stack: Stack) -> None:
    """Nothing is downloaded here."""
    said = stack.compose("run", "--rm", "-T", "models", "--help").decode()
    assert "--revision" in said


@pytest.mark.slow
def test_the_mmdet_flavour_is_built_and_can_load_its_operators(stack: Stack) -> None:
    """Its checkpoint is not ours to ship, so it is not served from here."""
    stack.compose("--profile", "mmdet", "build", "geneval-mmdet", timeout_s=7000)
    loaded = "import mmcv.ops, mmdet, services.geneval.detectors.mmdet_detector; print(mmdet.__version__)"
    command = ["docker", "run", "--rm", "--read-only", "--tmpfs", "/tmp", "--entrypoint", "python"]
    done = subprocess.run([*command, "assay-geneval-mmdet", "-c", loaded], capture_output=True, text=True)
    assert done.stdout.strip() == "3.3.0", done.stderr
    look_at_the_size_of("assay-geneval-mmdet")


@pytest.mark.parametrize("fault", ["pause", "partition"])
def test_a_client_shares_its_calls_between_replicas_and_survives_one_that_falls_silent(
    stack: Stack, fault: Literal["pause", "partition"]
) -> None:
    """It knows the service's name alone. One replica answers nothing meanwhile, and refuses nothing."""
    with stack.replicas():
        scoring = stack.start("python", "-c", SCORE_FOR_A_WHILE, "40")
        assert scoring.stdout is not None
        before = json.loads(scoring.stdout.readline())
        silent = stack.containers("geneval")[0]
        with stack.silence(silent, fault):
            output, errors = scoring.communicate(timeout=200)
        assert scoring.returncode == 0, errors
        lines = [json.loads(line) for line in output.splitlines()]
        seen = lines[-1]
        print(seen)
        assert seen["failed"] == 0
        assert seen["scored"] > 100
        met = [line["retried"] + line["hedged"] for line in (before, seen)]
        assert met[1] > met[0], "no call met the silent replica"
        # Of one that is cut off, the name no longer speaks, and the client forgets it.
        replicas = {name: calls for line in lines for name, calls in line["replicas"].items()}
        assert len(replicas) == REPLICAS
        assert all(calls > 0 for calls in replicas.values())
        assert seen["slowest_s"] < 30
        wait_until_healthy(silent)  # a paused one was found to hang


def test_replicas_restarted_one_by_one_under_load_fail_no_call(stack: Stack) -> None:
    """`assay bench` exits with 1 if any image got no score."""
    with stack.replicas():
        bench = "assay bench --target geneval:50051 --concurrency 4 --size 64x64 --class apple --count 3 --window-s 2"
        name = f"{stack.environment['COMPOSE_PROJECT_NAME']}-bench"
        loop = f"while [ ! -e /tmp/enough ]; do {bench} --deadline-s 60 || exit 1; done"
        scoring = stack.start("sh", "-c", loop, name=name)
        assert scoring.stdout is not None
        assert scoring.stdout.readline()
        for container in stack.containers("geneval"):
            subprocess.run(["docker", "restart", "--time", "60", container], check=True, timeout=120)
            wait_until_healthy(container)
        subprocess.run(["docker", "exec", name, "touch", "/tmp/enough"], check=True)
        output, errors = scoring.communicate(timeout=200)
        print(output)
        assert scoring.returncode == 0, errors


def test_a_service_that_is_stopped_drains_and_ends_well(stack: Stack) -> None:
    stack.compose("stop", "geneval")
    assert stack.state("geneval")["ExitCode"] == 0


def test_over_tls_only_who_trusts_its_authority_is_served_and_trainers_do(stack: Stack, tmp_path: Path) -> None:
    """The engine and the images are those of `stack`."""
    ours, other, secrets = tmp_path / "ours", tmp_path / "other", make_secrets(tmp_path / "secrets")
    into = {**os.environ, "TO": str(secrets / "services")}
    for folder, *what in ((ours, "ca"), (ours, "server", "localhost", "geneval"), (other, "ca")):
        environment = into if "server" in what else os.environ
        subprocess.run(["scripts/make_certificates.sh", str(folder), *what], cwd=ROOT, env=environment, check=True)
    shutil.copy(ours / "ca.pem", secrets / "client")
    with running(Stack(secrets, tls=True), "geneval") as secured:
        assert '"strict_correct": 1.0' in secured.score(stack.token_file, tls_ca=ours / "ca.pem").stdout
        for ca in (other / "ca.pem", None):
            refused = secured.score(stack.token_file, tls_ca=ca)
            assert refused.returncode != 0
            assert "Traceback" not in refused.stderr
        training = ["train", "configs/train/miniature_counting.yaml", *TINY]
        secured.compose("run", "--rm", "-T", "trainer", *training, timeout_s=600)


def _why_there_is_no_engine() -> str | None:
    """None if there is one."""
    if shutil.which("docker") is None:
        return "no Docker here: no `docker` command"
    for command in (["docker", "compose", "version"], ["docker", "info"]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            first = (done.stderr.strip().splitlines() or ["(it says nothing)"])[0]
            return f"no Docker here: `{' '.join(command)}` fails: {first}"
    return None
