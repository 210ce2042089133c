"""What Prometheus and Grafana ask for is what servers expose: names, labels, and label values that occur."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import promql_parser as promql
import pytest
import yaml
from assay_doubles import MeanScorer
from prometheus_client.parser import text_string_to_metric_families

from assay.serving.metrics import Metrics
from assay.testing import serve_in_background

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
ADDED_BY_PROMETHEUS = {"job", "instance", "service"}
NOT_OURS = {"up": {"job", "instance"}}


@pytest.fixture(scope="module")
def exposed() -> dict[str, set[str]]:
    """Name of a sample -> its labels, of a server on which everything that is counted has happened."""
    with serve_in_background([MeanScorer(fits_items=1)], http_port=0, token="sixteen-characters") as server:
        metrics = server.service.metrics
        for metric in vars(metrics).values():
            labels = getattr(metric, "_labelnames", ())
            if labels:  # a sample appears with its first value
                metric.labels(*["x"] * len(labels))
        headers = {"authorization": "Bearer sixteen-characters"}
        text = httpx.get(f"{server.http_url}/metrics", headers=headers).text
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboards" / "assay.json").read_text())
    return content


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield f"alert {rule['alert']}", rule["expr"]
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"].replace("$__rate_interval", "1m")
            yield f"panel {panel['title']} {target['refId']}", expression
    for variable in dashboard()["templating"]["list"]:
        yield f"variable {variable['name']}", re.sub(r"label_values\((.*), \w+\)", r"\1", variable["query"])


def selectors(expression: Any) -> Iterator[Any]:
    """All selectors of a parsed expression."""
    if isinstance(expression, promql.VectorSelector):
        yield expression
    for name in ("expr", "lhs", "rhs", "vector_selector"):
        if (inner := getattr(expression, name, None)) is not None:
            yield from selectors(inner)
    for inner in getattr(expression, "args", ()):
        yield from selectors(inner)


def groupings(expression: Any) -> Iterator[tuple[set[str], Any]]:
    """Labels that an aggregation keeps, and what it aggregates."""
    if isinstance(expression, promql.AggregateExpr) and expression.modifier is not None:
        yield set(expression.modifier.labels), expression.expr
    for name in ("expr", "lhs", "rhs"):
        if (inner := getattr(expression, name, None)) is not None:
            yield from groupings(inner)
    for inner in getattr(expression, "args", ()):
        yield from groupings(inner)


@pytest.mark.parametrize(("where", "text"), list(expressions()), ids=lambda value: value if " " in value[:14] else "")
def test_every_query_asks_for_what_there_is(exposed: dict[str, set[str]], where: str, text: str) -> None:
    known = {**exposed, **NOT_OURS}
    parsed = promql.parse(text)
    asked = list(selectors(parsed))
    assert asked
    for selector in asked:
        assert selector.name in known, where
        labels = {matcher.name for matcher in selector.matchers.matchers}
        assert labels <= known[selector.name] | ADDED_BY_PROMETHEUS, where
    for kept, inner in groupings(parsed):
        for selector in selectors(inner):
            assert kept <= known[selector.name] | ADDED_BY_PROMETHEUS, where


def test_every_metric_of_ours_is_looked_at() -> None:
    """By an alert or a panel; what nobody looks at is a cost without a use."""
    names = {family.name for family in Metrics().registry.collect() if family.name.startswith("assay_")}
    asked = " ".join(text for _, text in expressions())
    endings = "(_total|_bucket|_count|_sum|_created)?"
    assert {name for name in names if not re.search(rf"\b{name}{endings}\b", asked)} == set()


def test_what_alerts_want_the_growth_of_is_there_before_it_grows(tmp_path: Path) -> None:
    """Prometheus sees none in a series that begins with its first event, be it a thousand wrong tokens at once."""
    tokens = tmp_path / "tokens"
    tokens.write_text("trainer sixteen-characters\n")
    with serve_in_background([MeanScorer()], token_file=tokens) as server:
        families = [*server.service.metrics.registry.collect()]
    found = {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}
    doors = [("grpc", "TOKEN_MISSING"), ("grpc", "TOKEN_WRONG"), ("http", "TOKEN_MISSING"), ("http", "TOKEN_WRONG")]
    first = [("assay_failed_authentications_total", *labels) for labels in doors]
    first += [("assay_out_of_memory_total", "mean"), ("assay_failed_reloads_total", "token_file")]
    assert {labels: found.get(labels) for labels in first} == dict.fromkeys(first, 0.0)
    grown = {name for rule in rules() for name in re.findall(r"increase\((\w+)\[", rule["expr"])}
    assert grown == {name for name, *_ in first}


def test_the_codes_and_reasons_in_queries_are_real() -> None:
    import grpc

    written = " ".join(text for _, text in expressions())
    for pattern in re.findall(r'code=~?"([^"]+)"', written):
        assert all(hasattr(grpc.StatusCode, code) for code in pattern.split("|"))
    assert set(re.findall(r'why="([^"]+)"', written)) <= {"expired", "cancelled"}


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert {"summary", "description"} == set(rule["annotations"])
        named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        kept = [labels for labels, _ in groupings(promql.parse(rule["expr"]))]
        assert not kept or named <= kept[0], rule["alert"]


def test_the_files_name_each_other() -> None:
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    for file in scraped["rule_files"]:
        assert (DEPLOY / "prometheus" / file).is_file()
    job, vllm = scraped["scrape_configs"]
    ports = {}
    for service in ("geneval", "verifier", "spatial"):
        config = yaml.safe_load((DEPLOY.parent / "configs" / "services" / f"{service}.yaml").read_text())
        ports[service] = config["serve"]["http_port"]
    # A flavour has the port of what it is a flavour of.
    scraped_ports = {name: source["port"] for source in job["dns_sd_configs"] for name in source["names"]}
    assert ports.items() <= scraped_ports.items()
    assert all(port == ports[name.split("-")[0]] for name, port in scraped_ports.items())
    assert vllm["job_name"] == "vllm"
    assert job["relabel_configs"] == [{"source_labels": ["__meta_dns_name"], "target_label": "service"}]
    assert all(f'job="{job["job_name"]}"' in expr for where, expr in expressions() if "up{" in expr)
    provisioning = DEPLOY / "grafana" / "provisioning"
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    used = {panel["datasource"]["uid"] for panel in dashboard()["panels"] if panel["type"] != "row"}
    assert used == {source["uid"]}


def test_over_tls_prometheus_asks_the_same_of_the_same() -> None:
    clear, secured = (
        yaml.safe_load((DEPLOY / "prometheus" / name).read_text()) for name in ("prometheus.yml", "prometheus_tls.yml")
    )
    added = {"scheme": "https", "tls_config": {"ca_file": "/run/secrets/ca.pem", "server_name": "localhost"}}
    clear["scrape_configs"][0] |= added
    assert secured == clear


def test_rates_are_over_as_much_as_prometheus_asks_for() -> None:
    """Grafana's shortest `$__rate_interval` is four times what it takes for Prometheus' interval: 15 s, if not told."""
    [source] = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["global"]
    assert source["jsonData"]["timeInterval"] == scraped["scrape_interval"]


def test_numbers_are_those_of_now_and_curves_can_be_at_zero() -> None:
    """Asked for a range, a stat shows the last value in it: that of an hour ago if there was none since."""
    for panel in dashboard()["panels"]:
        asked = [(target.get("instant"), target.get("range")) for target in panel.get("targets", ())]
        assert panel["type"] != "stat" or asked == [(True, False)], panel["title"]
        scale = panel.get("fieldConfig", {}).get("defaults", {}).get("custom", {}).get("scaleDistribution", {})
        assert scale.get("type") != "log", panel["title"]


def test_panels_do_not_overlap() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        covered = {
            (place["x"] + column, place["y"] + line) for column in range(place["w"]) for line in range(place["h"])
        }
        assert not cells & covered, panel["title"]
        cells |= covered
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(dashboard()["panels"])
