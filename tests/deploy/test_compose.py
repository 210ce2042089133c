"""docker-compose.yml and its overlay for TLS, read: what of docs/containers.md shows without an engine."""

import json
import os
import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from assay.config import load_config
from assay.serve_command import SERVICES, ServiceConfig

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "scripts/compose.sh"
BOTH_FILES = ("-f", "docker-compose.yml", "-f", "docker-compose.tls.yml")

needs_compose = pytest.mark.skipif(
    subprocess.run([COMPOSE, "version"], capture_output=True).returncode != 0,
    reason="no docker compose here, and none can be got: nothing reads its files",
)


def compose(*arguments: str, **environment: str) -> dict[str, Any]:
    """The files as compose understands them, all profiles."""
    done = subprocess.run(
        [COMPOSE, *arguments, "--profile", "*", "config", "--format", "json"],
        cwd=ROOT,
        env={**{name: os.environ[name] for name in os.environ if not name.startswith("ASSAY_")}, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = json.loads(done.stdout)
    return read


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    return compose()


@pytest.fixture(scope="module")
def secured() -> dict[str, Any]:
    return compose(*BOTH_FILES)


def scoring(files: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The services that score: they are named as ours are, with what makes them another flavour."""
    found = {name: one for name, one in files["services"].items() if name.split("-")[0] in SERVICES}
    assert len(found) == 8
    return found


def settings(service: dict[str, Any]) -> dict[str, Any]:
    """The configuration that a service is started with."""
    command = service["command"] or ["serve", "geneval", "--config", "configs/services/geneval_mmdet.yaml"]
    assert command[0] == "serve"
    return load_config(ServiceConfig, ROOT / command[3], command[4:]).scorer


def mounts(service: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["target"]: one for one in service.get("volumes", ())}


@needs_compose
def test_a_token_or_certificate_that_replaces_another_by_rename_arrives(secured: dict[str, Any]) -> None:
    """A file that is bound stays what it was, whatever its name leads to later; a folder does not."""
    readers = {**scoring(secured), **{name: secured["services"][name] for name in ("trainer", "prometheus")}}
    for name, service in readers.items():
        folder = mounts(service)["/run/secrets"]
        assert (folder["type"], folder["read_only"]) == ("bind", True), name
        assert not folder["bind"].get("create_host_path"), "an empty folder would be made where none is"
        assert "secrets" not in service, name
        read = [value for value in service.get("environment", {}).values() if value and "/run/" in value]
        assert all(Path(value).parent == Path("/run/secrets") for value in read)
        assert len(read) == {"trainer": 2, "prometheus": 0}.get(name, 4)
    sources = {name: mounts(service)["/run/secrets"]["source"] for name, service in readers.items()}
    # The key of a server is not for its clients.
    assert sources["geneval"] not in (sources["trainer"], sources["prometheus"])


@needs_compose
def test_tls_is_switched_on_everywhere_or_prometheus_could_not_scrape_it(secured: dict[str, Any]) -> None:
    for name, service in scoring(secured).items():
        assert service["environment"]["ASSAY_SERVE__TLS__CERTIFICATE"] == "/run/secrets/server.pem", name
        port = grpc_port(service)
        assert service["healthcheck"]["test"] == ["CMD", "python", "-m", "assay.serving.probe", f"localhost:{port}"]
    mounted = mounts(secured["services"]["prometheus"])
    assert Path(mounted["/etc/prometheus/prometheus.yml"]["source"]).name == "prometheus_tls.yml"


def grpc_port(service: dict[str, Any]) -> int:
    """The gRPC port inside the container."""
    return min(port["target"] for port in service["ports"] if port["target"] > 50000)


@needs_compose
def test_images_for_full_size_have_what_the_processors_of_their_models_need(plain: dict[str, Any]) -> None:
    """Those that also take videos cannot be loaded without torchvision, which goes with CUDA's torch alone."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["video-processors"][0].startswith("torchvision")
    wanting = {"llava-onevision", "qwen2.5-vl", "qwen3-vl"}
    found = set()
    for name, service in scoring(plain).items():
        backend = settings(service).get("backend") or {}
        if backend.get("name") == "transformers" and any(one in backend["model"].lower() for one in wanting):
            found.add(name)
            arguments = service["build"]["args"]
            assert "video-processors" in arguments["EXTRAS"].split(","), name
            assert arguments["TORCH"].startswith("torch==="), name
            assert set(arguments["EXTRAS"].split(",")) <= extras.keys()
    assert found == {"verifier-gpu", "spatial-gpu"}


@needs_compose
def test_every_service_for_a_gpu_reserves_one_and_is_built_with_cuda(plain: dict[str, Any]) -> None:
    """`===` takes the index's build, even if wheels/ holds one for the CPU."""
    for name in ("geneval-gpu", "verifier-gpu", "spatial-gpu", "trainer-gpu"):
        service = plain["services"][name]
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", 1, ["gpu"]), name
        assert service["build"]["args"]["TORCH"].startswith("torch==="), name
        (declared,) = re.findall(r"^ARG TORCH=torch==(\S+)", (ROOT / service["build"]["dockerfile"]).read_text(), re.M)
        assert service["build"]["args"]["TORCH"] == f"torch==={declared}", name


@needs_compose
def test_the_volume_can_be_filled_with_every_model_that_a_service_wants_of_the_hub(plain: dict[str, Any]) -> None:
    """The services do not ask the hub; the one that does writes where they read, and has a way out."""
    fetching = plain["services"]["models"]
    assert fetching["environment"]["HF_HUB_OFFLINE"] == "0"
    assert fetching["entrypoint"] == ["hf", "download"]
    ways_out = [name for name, network in plain["networks"].items() if not network.get("internal")]
    assert set(fetching["networks"]) & set(ways_out)
    page = (ROOT / "docs/containers.md").read_text()
    for name, service in scoring(plain).items():
        assert service["environment"]["HF_HUB_OFFLINE"] == "1", name
        assert mounts(service)["/models"]["source"] == mounts(fetching)["/models"]["source"] == "models"
        scorer = settings(service)
        named = {"backend": scorer.get("backend"), "colors": scorer.get("colors")}
        named["detector"] = ((scorer.get("relation") or {}).get("detector") or {}).get("detector")
        for block in named.values():
            hub = block and block.get("name") != "openai" and block["model"].partition("/")[0]
            if hub and hub not in ("miniature", "checkpoints"):
                assert f"run --rm models {block['model']}" in page, name


@needs_compose
def test_vllm_neither_is_root_nor_leaves_files_that_services_cannot_read(plain: dict[str, Any]) -> None:
    vllm, fetching = plain["services"]["vllm"], plain["services"]["models"]
    assert vllm["user"] == "10001:10001"
    assert vllm["cap_drop"] == ["ALL"]
    assert list(mounts(vllm)) == [vllm["environment"]["HF_HOME"]]
    # Its image has no such folder, so that an empty volume would be root's: ours goes first.
    assert vllm["depends_on"]["models"]["condition"] == "service_completed_successfully"
    model = vllm["command"][: vllm["command"].index("--max-logprobs")]
    assert model == ["--model", *fetching["command"]]


@needs_compose
def test_what_prometheus_knows_outlives_it_and_is_bounded(plain: dict[str, Any]) -> None:
    prometheus = plain["services"]["prometheus"]
    flags = dict(flag.split("=", 1) for flag in prometheus["command"])
    folder = flags["--storage.tsdb.path"]
    assert mounts(prometheus)[folder] == {"type": "volume", "source": "prometheus", "target": folder, "volume": {}}
    assert flags["--storage.tsdb.retention.size"] == "4GB"
    assert all(not one.startswith(folder) for one in prometheus["tmpfs"])


@needs_compose
def test_every_scoring_service_is_scraped_at_the_port_it_has(plain: dict[str, Any]) -> None:
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    ports = {
        name: one["port"]
        for job in scraped
        if job["job_name"] == "assay"
        for one in job["dns_sd_configs"]
        for name in one["names"]
    }
    wanted = {}
    for name, service in scoring(plain).items():
        command = service["command"] or ["", "", "", "configs/services/geneval_mmdet.yaml"]
        wanted[name] = load_config(ServiceConfig, ROOT / command[3], []).serve.http_port
        assert "rewards" in service["networks"]
    assert ports == wanted


@needs_compose
def test_a_collector_of_traces_is_handed_on_to_what_can_send_them() -> None:
    collector = "http://collector:4317"
    for name, service in compose(OTEL_EXPORTER_OTLP_ENDPOINT=collector)["services"].items():
        build = service.get("build")
        if build is None or name == "models":
            continue
        assert service["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"] == collector, name
        installed = build["args"].get("EXTRAS") or default_extras(ROOT / build["dockerfile"])
        assert "otel" in installed.split(","), name


def default_extras(dockerfile: Path) -> str:
    (line,) = [line for line in dockerfile.read_text().splitlines() if line.startswith("ARG EXTRAS=")]
    return line.removeprefix("ARG EXTRAS=")


@needs_compose
def test_the_ports_that_the_page_gives_are_enough_for_its_replicas() -> None:
    (command,) = [line for line in (ROOT / "docs/containers.md").read_text().splitlines() if "--scale geneval=" in line]
    number = int(command.rpartition("=")[2])
    ranges = dict(word.split("=") for word in command.split() if word.startswith("ASSAY_"))
    services = compose(**ranges)["services"]
    taken = [port["published"] for name in services for port in services[name].get("ports", ()) if name != "geneval"]
    for port in services["geneval"]["ports"]:
        first, last = map(int, port["published"].split("-"))
        assert last - first + 1 == number
        assert not set(range(first, last + 1)) & set(map(int, taken))


def mode(path: Path) -> str:
    return stat.filemode(path.stat().st_mode)


CLIENT = "secrets/client/token"


def test_tokens_are_readable_for_containers_alone_and_a_client_keeps_its_own(tmp_path: Path) -> None:
    def make() -> None:
        subprocess.run(["make", "-f", ROOT / "Makefile", f"PYTHON={sys.executable}", CLIENT], cwd=tmp_path, check=True)

    services = tmp_path / "secrets/services/token"
    make()
    client = tmp_path / CLIENT
    assert len(client.read_text().strip()) >= 32
    assert client.read_text() == services.read_text()
    assert [mode(path) for path in (client, client.parent)] == ["-r--r--r--", "drwxr-xr-x"]
    assert mode(tmp_path / "secrets") == "drwx------"
    # A token more for the services, which is no client's: two lines would be no token.
    old = client.read_text()
    services.chmod(0o644)
    services.write_text(old + "another-token\n")
    os.utime(services, (2**31, 2**31))
    make()
    assert client.read_text() == old


def test_certificates_go_where_containers_read_them_and_the_key_of_the_authority_does_not(tmp_path: Path) -> None:
    authority, services = tmp_path / "tls", tmp_path / "secrets/services"
    for what, environment in ((["ca"], {}), (["server", "localhost", "geneval"], {"TO": str(services)})):
        script = ROOT / "scripts/make_certificates.sh"
        subprocess.run([script, authority, *what], env={**os.environ, **environment}, check=True)
    assert sorted(path.name for path in services.iterdir()) == ["ca.pem", "server.key", "server.pem"]
    # A key that cannot be read yet when it is there would not be looked at again.
    assert {mode(path) for path in services.iterdir()} == {"-r--r--r--"}
    assert mode(services) == "drwxr-xr-x"
    assert sorted(path.name for path in authority.iterdir()) == ["ca.key", "ca.pem"]
    assert mode(authority / "ca.key") == "-rw-------"
