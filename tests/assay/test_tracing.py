"""A call is one trace, from the caller's span to the model; request ids lead from an error to the log."""

import importlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from assay_doubles import MeanScorer, grey, plain
from assay_processes import ServerProcess
from google.rpc import error_details_pb2, status_pb2
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from spans import keep_spans, printed_spans
from waiting import wait_for

from assay import tracing
from assay.client import RewardClient
from assay.errors import AssayError, ConfigError
from assay.serving.current_call import answering, choose_request_id
from assay.serving.logs import JsonFormatter, TextFormatter
from assay.testing import BackgroundServer, serve_in_background
from assay.v1 import reward_service_pb2 as pb
from assay.v1 import reward_service_pb2_grpc as pb_grpc

ROOT = Path(__file__).parents[2]


@pytest.fixture
def exported() -> InMemorySpanExporter:
    return keep_spans()


@pytest.fixture(scope="module")
def server() -> Iterator[BackgroundServer]:
    with serve_in_background([MeanScorer()], http_port=0) as server:
        yield server


def request(prompt: str = "", count: int = 2) -> pb.ScoreRequest:
    image = pb.Image(rgb=pb.RgbImage(width=16, height=16, rgb8=bytes(768)))
    return pb.ScoreRequest(scorer="mean", items=[pb.ScoreItem(images=[image], prompt=prompt)] * count)


def finished(exporter: InMemorySpanExporter, root: str) -> tuple[ReadableSpan, ...]:
    """All spans, once the server's own has ended: it may end after the caller has its answer."""
    deadline_s = time.monotonic() + 10
    while not any(span.name.endswith(root) for span in exporter.get_finished_spans()):
        assert time.monotonic() < deadline_s
        time.sleep(0.005)
    return exporter.get_finished_spans()


def by_name(exporter: InMemorySpanExporter, root: str = "/Score") -> dict[str, ReadableSpan]:
    spans = finished(exporter, root)
    assert len({span.name for span in spans}) == len(spans)
    return {span.name: span for span in spans}


def parent_of(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent is not None else None


def test_a_grpc_call_is_one_trace_from_the_caller_to_the_model(
    server: BackgroundServer, exported: InMemorySpanExporter
) -> None:
    with grpc.insecure_channel(server.target) as channel:
        stub = pb_grpc.RewardServiceStub(channel)
        with trace.get_tracer("a trainer").start_as_current_span("rollout"):
            stub.Score(request(), metadata=tracing.inject(), timeout=10)
    spans = by_name(exported)
    parents = {
        "assay.v1.RewardService/Score": "rollout",
        "admit": "assay.v1.RewardService/Score",
        "decode": "assay.v1.RewardService/Score",
        "queue": "assay.v1.RewardService/Score",
        "batch": "assay.v1.RewardService/Score",
        "model": "batch",
    }
    assert spans.keys() == {*parents, "rollout"}
    assert {name: parent_of(spans[name]) for name in parents} == {
        name: spans[parent].context.span_id for name, parent in parents.items()
    }
    assert {span.context.trace_id for span in spans.values()} == {spans["rollout"].context.trace_id}
    assert spans["assay.v1.RewardService/Score"].kind == trace.SpanKind.SERVER
    assert dict(spans["batch"].attributes or {}) == {"assay.batch_items": 2}


def test_the_client_s_calls_belong_to_the_trace_of_who_calls_it(
    server: BackgroundServer, exported: InMemorySpanExporter
) -> None:
    """Though it works on a loop of its own, in another thread."""
    with RewardClient([server.target]) as client, trace.get_tracer("a trainer").start_as_current_span("rollout"):
        client.score([grey(1)], scorer="mean", **plain(1))
    spans = finished(exported, "rollout")
    [rollout] = [span for span in spans if span.name == "rollout"]
    [call] = [span for span in spans if span.name.endswith("/Score")]
    assert parent_of(call) == rollout.context.span_id


def test_times_of_spans_lie_within_each_other(server: BackgroundServer, exported: InMemorySpanExporter) -> None:
    with grpc.insecure_channel(server.target) as channel:
        pb_grpc.RewardServiceStub(channel).Score(request("sleep 0.05", 1), timeout=10)
    spans = by_name(exported)
    slack_ns = 40_000_000  # two clocks, read one after the other, perhaps with a pause between; the model takes 50 ms
    order = [("admit", "decode"), ("decode", "batch"), ("queue", "batch")]
    for first, second in order:
        assert (spans[first].start_time or 0) <= (spans[second].start_time or 0) + slack_ns
    for inner, outer in (("model", "batch"), ("batch", "assay.v1.RewardService/Score")):
        assert (spans[outer].start_time or 0) - slack_ns <= (spans[inner].start_time or 0)
        assert (spans[inner].end_time or 0) <= (spans[outer].end_time or 0) + slack_ns
    assert (spans["model"].end_time or 0) - (spans["model"].start_time or 0) >= 50_000_000


def test_an_http_request_is_one_trace_too(server: BackgroundServer, exported: InMemorySpanExporter) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    items = [{"images": [{"width": 8, "height": 8, "rgb8": "AAAA" * 64}]}]
    body = {"scorer": "mean", "items": items}
    answer = httpx.post(f"{server.http_url}/v1/score", json=body, headers={"traceparent": parent})
    assert "score" in answer.json()["results"][0]
    spans = by_name(exported, "HTTP POST")
    assert spans.keys() >= {"HTTP POST", "admit", "decode", "queue", "batch", "model"}  # newer FastAPIs add theirs
    assert {format(span.context.trace_id, "032x") for span in spans.values()} == {"0af7651916cd43dd8448eb211c80319c"}
    assert parent_of(spans["HTTP POST"]) == 0xB7AD6B7169203331


def test_without_opentelemetry_everything_works_and_nothing_is_sent(
    monkeypatch: pytest.MonkeyPatch, exported: InMemorySpanExporter
) -> None:
    """As it is where neither the extra nor FastAPI, which brings the API, is installed."""
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "opentelemetry", None)
        importlib.reload(tracing)
        try:
            assert tracing.inject() == ()
            assert tracing.record_span("x", 0, 1) is None
            with serve_in_background([MeanScorer()]) as server, RewardClient([server.target]) as client:
                assert len(client.score([grey(0)], scorer="mean", **plain(1))) == 1
        finally:
            patch.undo()
            importlib.reload(tracing)
    assert exported.get_finished_spans() == ()


#: `assay serve toy ...`, for a service that is quick to load.
SERVE_A_TOY = """
import sys
from assay import cli, serve_command
serve_command.SERVICES["toy"] = ("toy_service", sys.argv[1])
cli.app(["serve", "toy", *sys.argv[2:]])
"""


@pytest.mark.parametrize(
    ("variables", "name"), [({}, "assay-toy"), ({"OTEL_SERVICE_NAME": "of-our-own"}, "of-our-own")], ids=["own", "told"]
)
def test_a_service_s_spans_are_under_its_own_name(tmp_path: Path, variables: dict[str, str], name: str) -> None:
    """Under one name for all, nobody could tell the spans of two services apart."""
    (tmp_path / "toy_service.py").write_text(
        "from assay_doubles import MeanScorer\n\n\ndef build_scorers(settings):\n    return [MeanScorer()]\n"
    )
    config, ready = tmp_path / "toy.yaml", tmp_path / "ready.json"
    config.write_text("serve: {grpc_port: 0, http_port: null, drain_notice_s: 0}\n")
    environment = {**os.environ, "OTEL_TRACES_EXPORTER": "console", **variables}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(Path(__file__).parent), str(ROOT)])
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE_A_TOY, config, f"serve.ready_file={ready}"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(ready.exists, 120, "readiness")
        with RewardClient([json.loads(ready.read_text())["grpc"]]) as client:
            client.score([grey(0)], scorer="mean", **plain(1))
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=60)
    spans = printed_spans(output)
    assert any(span["name"].endswith("/Score") for span in spans)
    assert {span["resource"]["attributes"]["service.name"] for span in spans} == {name}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "ProxyTracerProvider"),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:1"}, "ProxyTracerProvider"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "TracerProvider"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:1"}, "TracerProvider"),
    ],
)
def test_the_standard_variables_say_where_spans_go(variables: dict[str, str], expected: str) -> None:
    code = "import assay.tracing as t; t.configure_tracing(); from opentelemetry import trace; "
    code += "print(type(trace.get_tracer_provider()).__name__)"
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == expected


def test_an_unknown_exporter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    with pytest.raises(ConfigError, match="OTEL_TRACES_EXPORTER = zipkin; allowed: otlp, console, none"):
        tracing.configure_tracing()


def test_the_id_of_a_call_is_in_its_error_and_in_the_log(
    server: BackgroundServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    caplog.handler.setFormatter(JsonFormatter())
    with grpc.insecure_channel(server.target) as channel:
        stub = pb_grpc.RewardServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Score(pb.ScoreRequest(scorer="nope"), metadata=[("x-request-id", "step-7")], timeout=10)
        stub.Score(request("poison", 1), metadata=[("x-request-id", "step-8")], timeout=10)
    assert dict(info_of(caught.value).metadata)["request_id"] == "step-7"
    lines = [json.loads(line) for line in caplog.text.splitlines()]
    assert {"step-7"} == {line["request_id"] for line in lines if "SCORER_NOT_FOUND" in line["message"]}
    traceback = next(line for line in lines if "exception" in line)
    assert traceback["request_id"] == "step-8"
    assert "secret path /models/private.bin" in traceback["exception"]
    answer = httpx.post(f"{server.http_url}/v1/score", json={}, headers={"x-request-id": "page-9"}).json()
    assert answer["error"]["details"][0]["metadata"]["request_id"] == "page-9"


def info_of(error: Any) -> error_details_pb2.ErrorInfo:
    trailing = dict(error.trailing_metadata())
    status, info = status_pb2.Status.FromString(trailing["grpc-status-details-bin"]), error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info


def test_the_id_is_the_trace_s_if_none_was_sent(server: BackgroundServer, exported: InMemorySpanExporter) -> None:
    with grpc.insecure_channel(server.target) as channel, pytest.raises(grpc.RpcError) as caught:
        pb_grpc.RewardServiceStub(channel).Score(pb.ScoreRequest(scorer="nope"), timeout=10)
    [call] = [span for span in finished(exported, "/Score") if span.name.endswith("/Score")]
    assert dict(info_of(caught.value).metadata)["request_id"] == format(call.context.trace_id, "032x")


@pytest.mark.parametrize("sent", ["", "a b", 'x"', "line\nline", "x" * 129, "-x", "ü"])
def test_ids_that_could_forge_a_line_of_the_log_are_replaced(sent: str) -> None:
    assert choose_request_id(sent, "trace") == "trace"
    made = choose_request_id(sent)
    assert len(made) == 32
    assert made != choose_request_id(sent)


def test_lines_are_one_object_each_and_name_the_caller() -> None:
    record = logging.LogRecord("assay.serving", logging.INFO, "", 0, "it said\n%s", ("x\ny",), None)
    with answering("call-1", "trainer"):
        line = JsonFormatter().format(record)
        text = TextFormatter("%(levelname)s: %(message)s").format(record)
    assert "\n" not in line
    parsed = json.loads(line)
    expected = {"level": "INFO", "logger": "assay.serving", "message": "it said\nx\ny", "request_id": "call-1"}
    assert {**expected, "caller": "trainer"}.items() <= parsed.items()
    assert text == "INFO: it said\nx\ny [request call-1]"


def test_a_server_logs_as_its_settings_say(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, log_format="json")
    with RewardClient([server.grpc]) as client, pytest.raises(AssayError):
        client.score([grey(0)], scorer="nope", **plain(1))
    server.process.terminate()
    code, _, stderr = server.wait()
    lines = [json.loads(line) for line in stderr.splitlines()]
    assert code == 0
    assert any("stopping" in line["message"] for line in lines)
