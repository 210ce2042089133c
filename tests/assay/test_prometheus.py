"""Alerts and dashboard against a real Prometheus that scrapes real servers; skipped where none is installed."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml
from assay_doubles import MeanScorer, grey, greys, plain
from prometheus_process import DEPLOY, PrometheusProcess
from waiting import wait_for

from assay.client import RewardClient
from assay.tasks import GenEvalTask, ObjectClause
from assay.testing import serve_in_background
from assay.v1 import reward_service_pb2 as pb
from assay.v1 import reward_service_pb2_grpc as pb_grpc

HERE = Path(__file__).parent
TRAINER, PROMETHEUS = "a-trainer-s-token-of-32-characters", "prometheus-s-own-of-32-characters"
APPLES = GenEvalTask("counting", (ObjectClause("apple", 3),))

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool is installed")
needs_prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus is installed")


def promtool(*arguments: object) -> None:
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize("file", ["prometheus.yml", "prometheus_tls.yml"])
def test_prometheus_takes_the_configuration_and_the_rules(tmp_path: Path, file: str) -> None:
    config = (DEPLOY / "prometheus" / file).read_text()
    (tmp_path / "token").write_text(PROMETHEUS)
    (tmp_path / "ca.pem").write_text("")  # it looks whether it is there
    shutil.copy(DEPLOY / "prometheus" / "alerts.yml", tmp_path)
    (tmp_path / file).write_text(config.replace("/run/secrets", str(tmp_path)))
    promtool("check", "config", tmp_path / file)


@needs_promtool
def test_alerts_fire_when_they_should_and_not_before() -> None:
    promtool("test", "rules", DEPLOY / "prometheus" / "alerts_test.yml")


@needs_promtool
def test_no_refusal_is_shown_as_none_of_the_calls(tmp_path: Path) -> None:
    """Not as `No data`: that is for a time without calls."""
    [panel] = [panel for panel in dashboard()["panels"] if panel["title"] == "Refused for overload"]
    expression = substituted(panel["targets"][0]["expr"], {"scorer": ".*", "instance": ".*"})
    cases = [("0+60x30", [{"labels": "{}", "value": 0}]), ("60x30", [])]
    tests = [
        {
            "interval": "15s",
            "input_series": [{"series": 'assay_calls_total{scorer="a", instance="b", code="OK"}', "values": values}],
            "promql_expr_test": [{"expr": expression, "eval_time": "5m", "exp_samples": samples}],
        }
        for values, samples in cases
    ]
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"tests": tests}))
    promtool("test", "rules", tmp_path / "test.yml")


def test_every_alert_has_a_case() -> None:
    cases = yaml.safe_load((DEPLOY / "prometheus" / "alerts_test.yml").read_text())["tests"]
    fires = {check["alertname"] for case in cases for check in case["alert_rule_test"] if check["exp_alerts"]}
    assert fires == names_of_alerts()


def names_of_alerts() -> set[str]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    return {rule["alert"] for group in groups for rule in group["rules"]}


class Replica:
    """A server in a process of its own, that asks for a token of a file."""

    def __init__(self, folder: Path, command: list[str], prefix: str, **settings: object) -> None:
        folder.mkdir()
        self.tokens = folder / "tokens"
        self.tokens.write_text(f"trainer {TRAINER}\nprometheus {PROMETHEUS}\n")
        self._ready, self._log = folder / "ready.json", folder / "log"
        fields = {"grpc_port": 0, "http_port": 0, "token_file": self.tokens, "ready_file": self._ready, **settings}
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command, *(f"{prefix}{name}={value}" for name, value in fields.items())],
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
                cwd=HERE.parents[1],
            )

    def wait_until_ready(self) -> None:
        wait_for(lambda: self._ready.exists() or self.process.poll() is not None, 240)
        assert self._ready.exists(), self._log.read_text()
        addresses = json.loads(self._ready.read_text())
        self.grpc, self.http = addresses["grpc"], addresses["http"]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass
class Fleet:
    """One replica of GenEval, two of another service, and who watches them."""

    geneval: Replica
    means: list[Replica]
    prometheus: PrometheusProcess

    @property
    def replicas(self) -> list[Replica]:
        return [self.geneval, *self.means]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    mean = [str(HERE / "serve_mean.py")]
    geneval = ["-m", "assay.cli", "serve", "geneval"]
    with ExitStack() as stack:

        def start(name: str, command: list[str], prefix: str = "", **settings: object) -> Replica:
            replica = Replica(folder / name, command, prefix, max_cache_bytes=2**20, **settings)
            stack.callback(replica.kill)
            return replica

        fleet = [start("geneval", geneval, "serve."), *(start(name, mean, max_queued_items=8) for name in ("a", "b"))]
        for replica in fleet:
            replica.wait_until_ready()
        (folder / "prometheus").mkdir()
        addresses = {"geneval": [fleet[0].http], "verifier": [replica.http for replica in fleet[1:]]}
        prometheus = PrometheusProcess(folder / "prometheus", PROMETHEUS, addresses)
        stack.callback(prometheus.stop)
        yield Fleet(fleet[0], fleet[1:], prometheus)


class Load:
    """Calls of every kind to all replicas, again and again, from a thread."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            number = 0
            while not self._stop.wait(0.2):
                number = (number + 1) % 250
                score_geneval(self._fleet.geneval, number)
                for replica in self._fleet.means:
                    score_mean(replica, number)
        except BaseException as error:  # pytest's own are no Exceptions
            self._error = error


def score_geneval(replica: Replica, number: int) -> None:
    with RewardClient([replica.grpc], token=TRAINER) as client:
        images = [grey(number, 64, 64), grey(number, 64, 64), b"GIF89a"]
        client.score(images, scorer="geneval", prompts=[""] * 3, tasks=[APPLES] * 3)


def score_mean(replica: Replica, number: int) -> None:
    """New, equal and known items; some that fail in several ways; while the model is busy, one that is given up."""
    with RewardClient([replica.grpc], token=TRAINER) as client:
        client.score([grey(number), grey(number), grey(1)], scorer="mean", **plain(3))
        client.score([grey(1)] * 2, scorer="other", prompts=["poison", "refuse"], tasks=[None] * 2)
        busy = client.submit([grey(number)], scorer="other", **plain(1, "sleep 0.5"))
        given_up = client.submit([grey(2)], scorer="mean", **plain(1, f"sleep 0.{number:03d}"))
        time.sleep(0.05)
        given_up.cancel()
        be_refused(replica)
        busy.result(60)


def be_refused(replica: Replica) -> None:
    """For an unknown scorer; for a token that is missing or wrong; if the model is still busy, for a full queue."""
    image = pb.Image(rgb=pb.RgbImage(width=16, height=16, rgb8=grey(1).tobytes()))
    items = [pb.ScoreItem(id=str(number), images=[image]) for number in range(9)]
    right, wrong = [("authorization", f"Bearer {token}") for token in (TRAINER, "wrong")]
    with grpc.insecure_channel(replica.grpc) as channel:
        stub = pb_grpc.RewardServiceStub(channel)
        for scorer, metadata in [("mean", [right]), ("nope", [right]), ("mean", [wrong]), ("mean", [])]:
            with suppress(grpc.RpcError):
                stub.Score(pb.ScoreRequest(scorer=scorer, items=items), metadata=metadata, timeout=60)
    assert httpx.get(f"http://{replica.http}/v1/status", timeout=60).status_code in (401, 429)


@needs_prometheus
@pytest.mark.slow
def test_over_tls_a_service_is_asked_by_address_and_known_by_its_certificate(tmp_path: Path) -> None:
    """Which is for localhost alone."""
    for folder, *what in (("ours", "ca"), ("ours", "server", "localhost"), ("other", "ca")):
        script = HERE.parents[1] / "scripts/make_certificates.sh"
        subprocess.run([script, tmp_path / folder, *what], check=True)
    tls = {"certificate": tmp_path / "ours/server.pem", "key": tmp_path / "ours/server.key"}
    seen = []
    with serve_in_background([MeanScorer()], http_port=0, token=PROMETHEUS, tls=tls) as server:
        replicas = {"geneval": [str(server.http_url).partition("://")[2]]}
        for authority in ("ours", "other"):
            (tmp_path / f"asks_{authority}").mkdir()
            ca = tmp_path / authority / "ca.pem"
            prometheus = PrometheusProcess(tmp_path / f"asks_{authority}", PROMETHEUS, replicas, ca)
            try:
                (found,) = wait_for(lambda asked=prometheus: asked.query("up"), 60)  # type: ignore[misc]
            finally:
                prometheus.stop()
            seen.append(found[1])
    assert seen == [1.0, 0.0]


@needs_prometheus
@pytest.mark.slow
def test_every_replica_is_asked_and_every_rule_is_taken(fleet: Fleet) -> None:
    def targets() -> dict[str, tuple[str, str]]:
        found = (fleet.prometheus.get("targets") or {"activeTargets": []})["activeTargets"]
        return {target["labels"]["instance"]: (target["labels"]["service"], target["health"]) for target in found}

    wanted = {fleet.geneval.http: ("geneval", "up"), **{replica.http: ("verifier", "up") for replica in fleet.means}}
    wait_for(lambda: targets() == wanted)

    def rules() -> dict[str, str]:
        groups = (fleet.prometheus.get("rules") or {"groups": []})["groups"]
        return {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}

    wait_for(lambda: set(rules().values()) == {"ok"})
    assert rules().keys() == names_of_alerts()


@needs_prometheus
@pytest.mark.slow
def test_every_panel_shows_something_while_there_is_work(fleet: Fleet) -> None:
    targets = [(panel["title"], target) for panel in dashboard()["panels"] for target in panel.get("targets", ())]
    with Load(fleet):
        chosen = {name: wait_for(lambda name=name: values_of(fleet, name)) for name in ("scorer", "instance")}
        instances = {replica.http for replica in fleet.replicas}
        assert chosen == {"scorer": {"geneval", "counting", "mean", "other"}, "instance": instances}
        for title, target in targets:
            for choice in (dict.fromkeys(chosen, ".*"), {name: any_of(values) for name, values in chosen.items()}):
                wait_for(lambda t=target, c=choice: shows(fleet.prometheus, t, c), what=f"{title}: {target['expr']}")


def dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboards" / "assay.json").read_text())
    return content


def values_of(fleet: Fleet, name: str) -> set[str] | None:
    """What a variable of the dashboard offers, once each replica has been seen."""
    [variable] = [variable for variable in dashboard()["templating"]["list"] if variable["name"] == name]
    selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]).groups()  # type: ignore[union-attr]
    series = fleet.prometheus.get("series", **{"match[]": selector}) or []
    seen = {one["instance"] for one in series} == {replica.http for replica in fleet.replicas}
    return {one[label] for one in series} if seen else None


def any_of(values: set[str]) -> str:
    """A choice of several values as Grafana writes it into a regular expression in a string."""
    return f"({'|'.join(re.escape(value).replace(chr(92), chr(92) * 2) for value in sorted(values))})"


def substituted(expression: str, choice: dict[str, str]) -> str:
    """An expression of the dashboard as it is asked."""
    for name, value in {"__rate_interval": "1m", **choice}.items():
        expression = expression.replace(f"${name}", value)
    assert "$" not in expression
    return expression


def shows(prometheus: PrometheusProcess, target: dict[str, Any], choice: dict[str, str]) -> bool:
    """Whether there are series, each with a number, and all that their legends name."""
    found = prometheus.query(substituted(target["expr"], choice))
    named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
    # What went well has no reason, and Prometheus knows no empty label; Grafana leaves its place empty.
    complete = all(named - {"reason"} <= labels.keys() for labels, _ in found)
    known = set().union(*(labels.keys() for labels, _ in found))
    return bool(found) and complete and named <= known and all(math.isfinite(value) for _, value in found)


@needs_prometheus
@pytest.mark.slow
def test_alerts_reach_who_watches(fleet: Fleet) -> None:
    one, two = fleet.means
    with RewardClient([one.grpc], token=TRAINER, batch_items=32) as client:  # halved five times, all within one batch
        client.score(greys(32), scorer="other", prompts=["hoard", *[""] * 31], tasks=[None] * 32)
    with Load(fleet):
        at_work = {("AssayFailing", one.http), ("AssayOutOfMemory", one.http), ("AssayShedding", one.http)}
        wait_for(lambda: fleet.prometheus.firing() >= at_work, what="alerts of a service that fails")
    assert not {name for name, _ in fleet.prometheus.firing()} & {"AssayGone", "AssayReloadFailed", "AssayStrangers"}
    for _ in range(150):
        assert httpx.get(f"http://{one.http}/v1/status", timeout=60).status_code in (401, 429)
    two.kill()
    fleet.geneval.tokens.write_text("\n")
    # What was read before stays in force; the file is looked at when somebody comes, which Prometheus does.
    done = {("AssayStrangers", one.http), ("AssayDown", two.http), ("AssayReloadFailed", fleet.geneval.http)}
    wait_for(lambda: fleet.prometheus.firing() >= done, what="alerts of intruders, a dead replica and broken tokens")
    fleet.prometheus.ask_only({"verifier": [one.http]})
    # Nobody asks those that are forgotten: only the alert of a service without any replica can tell.
    forgotten = {("AssayGone", "geneval")}, {("AssayGone", "verifier"), ("AssayDown", two.http)}
    wait_for(lambda: forgotten[0] <= fleet.prometheus.firing() and not forgotten[1] & fleet.prometheus.firing())
