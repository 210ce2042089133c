"""A real Prometheus with the project's own configuration, as the tests start it."""

import json
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
EVERY = "1s"


class PrometheusProcess:
    """Prometheus as `deploy/prometheus` has it, but in a hurry, and told of replicas by a file in place of DNS.

    Alerts fire as soon as what they say is true; over which time they look is left as it is.

    Args:
        folder: for its files; must be empty.
        token: what it shows to the services.
        replicas: service -> `host:port` of each.
        ca: the authority, if they speak TLS.
    """

    def __init__(self, folder: Path, token: str, replicas: Mapping[str, Sequence[str]], ca: Path | None = None) -> None:
        self._ca = ca
        self._targets = folder / "targets.json"
        self.ask_only(replicas)
        (folder / "token").write_text(f"{token}\n")
        (folder / "alerts.yml").write_text(_impatient_alerts())
        (folder / "prometheus.yml").write_text(self._config(folder))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self._log = (folder / "prometheus.log").open("w")
        self._process = subprocess.Popen(
            [
                str(shutil.which("prometheus")),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={self.address}",
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def ask_only(self, replicas: Mapping[str, Sequence[str]]) -> None:
        """Know these replicas and forget all others, as when a name leads elsewhere."""
        groups = [{"targets": [*found], "labels": {"__meta_dns_name": name}} for name, found in replicas.items()]
        written = self._targets.with_suffix(".new")
        written.write_text(json.dumps(groups))
        written.rename(self._targets)

    def get(self, path: str, **parameters: object) -> Any:
        """What the API answers, None while it does not answer. An error of a query is an AssertionError."""
        try:
            answer = httpx.get(f"http://{self.address}/api/v1/{path}", params=parameters, timeout=30)  # type: ignore[arg-type]
        except httpx.TransportError:
            assert self._process.poll() is None, Path(self._log.name).read_text()
            return None
        if answer.status_code == 503:  # it is starting
            return None
        content = answer.json()
        assert content["status"] == "success", (parameters, content["error"])
        return content["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """(labels, value) of each series that `expression` is now."""
        data = self.get("query", query=expression)
        return [(series["metric"], float(series["value"][1])) for series in data["result"]] if data else []

    def firing(self) -> set[tuple[str, str]]:
        """(name, instance or service) of the alerts that fire."""
        alerts = (self.get("alerts") or {"alerts": []})["alerts"]
        labels = [alert["labels"] for alert in alerts if alert["state"] == "firing"]
        return {(found["alertname"], found.get("instance", found.get("service", ""))) for found in labels}

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()

    def _config(self, folder: Path) -> str:
        name = "prometheus_tls.yml" if self._ca else "prometheus.yml"
        config = yaml.safe_load((DEPLOY / "prometheus" / name).read_text())
        config["global"] = {"scrape_interval": EVERY, "evaluation_interval": EVERY}
        job = config["scrape_configs"][0]
        config["scrape_configs"] = [job]  # vLLM's is not ours
        job["authorization"]["credentials_file"] = str(folder / "token")
        if self._ca:
            job["tls_config"]["ca_file"] = str(self._ca)
        del job["dns_sd_configs"]
        job["file_sd_configs"] = [{"files": [str(self._targets)]}]
        return yaml.safe_dump(config)


def _impatient_alerts() -> str:
    content = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
    for group in content["groups"]:
        for rule in group["rules"]:
            rule["for"] = "0s"
    return yaml.safe_dump(content)
