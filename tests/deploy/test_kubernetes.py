"""deploy/kubernetes, as `kubectl apply -k` builds it: valid, selecting what it should, and what the services take."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from assay.config import load_config
from assay.serve_command import SERVICES, ServiceConfig
from assay.serving.metrics import Metrics
from assay.serving.settings import ServeConfig

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/kubernetes"
SERVICE_NAMES = sorted(SERVICES)

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here: nothing builds the manifests")


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def resources(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    done = subprocess.run(["kubectl", "kustomize", FOLDER / request.param], capture_output=True, text=True, check=True)
    assert "Warning" not in done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(resources: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in resources if one["kind"] == kind}


def test_the_schemas_take_them(resources: list[dict[str, Any]]) -> None:
    for resource in resources:
        kubernetes_validate.validate(resource, "1.37", strict=True)


def test_a_misspelt_field_would_be_found(resources: list[dict[str, Any]]) -> None:
    deployment = next(iter(of_kind(resources, "Deployment").values()))
    deployment = {**deployment, "spec": {**deployment["spec"], "replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.37", strict=True)


def test_everything_of_a_service_selects_its_own_pods_and_no_others(resources: list[dict[str, Any]]) -> None:
    deployments = of_kind(resources, "Deployment")
    assert sorted(deployments) == [f"assay-{name}" for name in SERVICE_NAMES]
    labels = {name: one["spec"]["template"]["metadata"]["labels"] for name, one in deployments.items()}
    for kind, selector in (
        ("Deployment", lambda one: one["spec"]["selector"]["matchLabels"]),
        ("Service", lambda one: one["spec"]["selector"]),
        ("PodDisruptionBudget", lambda one: one["spec"]["selector"]["matchLabels"]),
    ):
        for name, one in of_kind(resources, kind).items():
            selected = [other for other in labels if selector(one).items() <= labels[other].items()]
            assert selected == [name], kind
    for name, one in of_kind(resources, "HorizontalPodAutoscaler").items():
        assert one["spec"]["scaleTargetRef"]["name"] == name
    (policy,) = of_kind(resources, "NetworkPolicy").values()
    assert all(policy["spec"]["podSelector"]["matchLabels"].items() <= one.items() for one in labels.values())
    # Those who call are no pods of ours.
    callers = [peer["podSelector"]["matchLabels"] for rule in policy["spec"]["ingress"] for peer in rule["from"]]
    assert callers == [{"assay.dev/client": "true"}, {"app.kubernetes.io/name": "prometheus"}]


@pytest.mark.parametrize("service", SERVICE_NAMES)
def test_the_services_take_their_settings(
    resources: list[dict[str, Any]], service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = of_kind(resources, "Deployment")[f"assay-{service}"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    monkeypatch.setenv("ASSAY_SERVE__HOST", "0.0.0.0")  # of the image
    words = container["args"]
    assert words[:2] == ["serve", service]
    path = ROOT / (words[3] if len(words) > 2 else SERVICES[service][1])
    serve: ServeConfig = load_config(ServiceConfig, path, []).serve
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": serve.grpc_port, "http": serve.http_port}
    assert pod["terminationGracePeriodSeconds"] > serve.drain_notice_s + serve.drain_grace_s
    (mount,) = [one for one in container["volumeMounts"] if one["name"] == "token"]
    assert str(serve.token_file).startswith(mount["mountPath"])
    assert pod["securityContext"]["runAsUser"] == 10001
    # Processors of full-size judges need torchvision, which these images alone have.
    assert container["image"].endswith("-gpu") == path.name.endswith("_full.yaml")
    dockerfile = (ROOT / f"services/{service}/Dockerfile").read_text()
    assert "USER 10001:10001" in dockerfile
    assert "VOLUME /models" in dockerfile


def test_an_apply_does_not_undo_what_the_autoscaler_did(resources: list[dict[str, Any]]) -> None:
    scaled = {one["spec"]["scaleTargetRef"]["name"] for one in of_kind(resources, "HorizontalPodAutoscaler").values()}
    deployments = of_kind(resources, "Deployment")
    assert scaled == set(deployments)
    assert [name for name, one in deployments.items() if "replicas" in one["spec"]] == []


def test_autoscalers_ask_for_a_metric_that_the_services_have(resources: list[dict[str, Any]]) -> None:
    (rule,) = yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    metrics = Metrics()
    metrics.held.labels("items").set(3)
    assert 'assay_held{what="items"} 3.0' in metrics.exposition().decode()
    assert rule["seriesQuery"].startswith('assay_held{what="items"')
    for one in of_kind(resources, "HorizontalPodAutoscaler").values():
        (metric,) = one["spec"]["metrics"]
        assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
