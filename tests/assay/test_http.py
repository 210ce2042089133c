"""The HTTP door leads to the same path, with the same refusals."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from assay_doubles import MeanScorer, grey

from assay.images import encode
from assay.serving.scorer import Limits
from assay.testing import BackgroundServer, serve_in_background


@pytest.fixture(scope="module")
def scorers() -> list[MeanScorer]:
    return [MeanScorer(), MeanScorer("geneval", tasks=("GenEvalTask",)), MeanScorer("tiny", limits=Limits(max_items=2))]


@pytest.fixture(scope="module")
def server(scorers: list[MeanScorer]) -> Iterator[BackgroundServer]:
    with serve_in_background(scorers, http_port=0, max_message_bytes=100_000) as server:
        yield server


def png(value: int) -> dict[str, str]:
    return {"format": "png", "data": base64.b64encode(encode(grey(value), "PNG")).decode()}


def post(server: BackgroundServer, **body: Any) -> httpx.Response:
    return httpx.post(f"{server.http_url}/v1/score", json={"scorer": "mean", **body}, timeout=10)


def error_of(response: httpx.Response) -> tuple[int, str, str, str]:
    error = response.json()["error"]
    assert error["code"] == response.status_code
    return error["code"], error["status"], error["details"][0]["reason"], error["message"]


def test_json_gives_scores_and_errors_item_by_item(server: BackgroundServer) -> None:
    raw = {"width": 16, "height": 16, "rgb8": base64.b64encode(grey(3).tobytes()).decode()}
    broken = {"format": "png", "data": base64.b64encode(b"\x89PNG\r\n\x1a\nxx").decode()}
    items = [{"id": "a", "images": [png(2)]}, {"id": "b", "images": [raw]}, {"id": "c", "images": [broken]}]
    answer = post(server, items=items, evidence=True).json()
    assert [result["id"] for result in answer["results"]] == ["a", "b", "c"]
    assert answer["results"][0]["score"]["value"] == pytest.approx(2 / 255)
    assert answer["results"][1]["score"]["components"]["pixels"] == 256
    assert answer["results"][1]["score"]["evidence"]["reason"] == "because"
    assert "score" not in answer["results"][2]
    assert answer["results"][2]["error"]["reason"] == "IMAGE_UNDECODABLE"
    assert answer["scorer_fingerprint"] == "f1"
    assert answer["timing"]["batch_items"] == 2


def test_geneval_lines_are_taken_as_tasks(server: BackgroundServer) -> None:
    task = {"tag": "position", "include": [{"class": "dog"}, {"class": "cat", "position": ["left of", 0]}]}
    answer = post(server, scorer="geneval", items=[{"images": [png(1)], "task": task}, {"images": [png(1)]}]).json()
    assert "score" in answer["results"][0]
    assert answer["results"][1]["error"]["reason"] == "TASK_MISSING"


def test_files_of_a_form_are_scored(server: BackgroundServer) -> None:
    request = json.dumps({"scorer": "mean", "items": [{"id": "x"}, {"id": "y"}]})
    files = [("images", ("a.png", encode(grey(5), "PNG"))), ("images", ("b.webp", encode(grey(6), "WEBP")))]
    answer = httpx.post(f"{server.http_url}/v1/score", data={"request": request}, files=files).json()
    assert [round(result["score"]["value"] * 255) for result in answer["results"]] == [5, 6]
    short = httpx.post(f"{server.http_url}/v1/score", data={"request": request}, files=files[:1])
    assert error_of(short)[:3] == (400, "INVALID_ARGUMENT", "REQUEST_MALFORMED")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"items": []}, (400, "INVALID_ARGUMENT", "NO_ITEMS")),
        ({"scorer": "nope", "items": [{}]}, (404, "NOT_FOUND", "SCORER_NOT_FOUND")),
        ({"scorer": "tiny", "items": [{}] * 3}, (400, "INVALID_ARGUMENT", "TOO_MANY_ITEMS")),
        ({"items": [{}], "expected_fingerprint": "x"}, (400, "FAILED_PRECONDITION", "FINGERPRINT_MISMATCH")),
        ({"items": [{"imagse": []}]}, (400, "INVALID_ARGUMENT", "REQUEST_MALFORMED")),
        ({"items": [{"images": [{"format": "png"}]}]}, (400, "INVALID_ARGUMENT", "IMAGE_MALFORMED")),
        ({"items": [{"images": [{"format": "png", "data": "?"}]}]}, (400, "INVALID_ARGUMENT", "BASE64_INVALID")),
        ({"items": [{"images": [{"format": "bmp", "data": ""}]}]}, (400, "INVALID_ARGUMENT", "REQUEST_MALFORMED")),
    ],
)
def test_refusals_are_named(server: BackgroundServer, body: dict[str, Any], expected: tuple[int, str, str]) -> None:
    assert error_of(post(server, **body))[:3] == expected


def test_broken_json_is_named(server: BackgroundServer) -> None:
    response = httpx.post(f"{server.http_url}/v1/score", content=b"{")
    assert error_of(response)[:3] == (400, "INVALID_ARGUMENT", "REQUEST_MALFORMED")


@pytest.mark.parametrize("chunked", [False, True])
def test_large_bodies_are_refused_as_they_stream_in(server: BackgroundServer, chunked: bool) -> None:
    body = b"x" * 200_000
    content = iter([body[:50_000]] * 4) if chunked else body
    response = httpx.post(f"{server.http_url}/v1/score", content=content)
    assert error_of(response)[:3] == (413, "RESOURCE_EXHAUSTED", "BODY_TOO_LARGE")


def test_late_answers_are_refused(server: BackgroundServer) -> None:
    response = post(server, items=[{"images": [png(1)], "prompt": "sleep 0.4"}], deadline_s=0.1)
    assert error_of(response)[:2] == (504, "DEADLINE_EXCEEDED")


def test_who_hangs_up_is_not_scored(server: BackgroundServer, scorers: list[MeanScorer]) -> None:
    post(server, items=[{"images": [png(1)]}])  # the model is free from here on
    blocking = {"id": "blocking", "images": [png(1)], "prompt": "wait"}
    doomed = {"id": "doomed", "images": [png(1)]}
    with httpx.Client(base_url=server.http_url or "", timeout=0.1) as client:
        for item in (blocking, doomed):
            with pytest.raises(httpx.ReadTimeout):
                client.post("/v1/score", json={"scorer": "mean", "items": [item]})
    time.sleep(0.2)  # for the server to see it
    scorers[0].gate.set()
    post(server, items=[{"images": [png(1)]}])  # the queue is empty from here on
    assert "blocking" in scorers[0].scored_ids
    assert "doomed" not in scorers[0].scored_ids


def test_metrics_openapi_and_scorers(server: BackgroundServer) -> None:
    post(server, items=[{"images": [png(1)]}])
    assert 'assay_items_total{code="OK",reason="",scorer="mean"}' in httpx.get(f"{server.http_url}/metrics").text
    document = httpx.get(f"{server.http_url}/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert {"JsonScoreRequest", "JsonItem", "JsonImage", "JsonGenEvalTask"} <= set(schemas)
    references = json.dumps(document).split("#/components/schemas/")[1:]
    assert all(reference.split('"')[0] in schemas for reference in references)
    scorers = httpx.get(f"{server.http_url}/v1/scorers").json()["scorers"]
    assert [scorer["name"] for scorer in scorers] == ["mean", "geneval", "tiny"]


def test_readiness_follows_the_drain() -> None:
    with serve_in_background([MeanScorer()], http_port=0, drain_notice_s=2.0) as server:
        assert httpx.get(f"{server.http_url}/readyz").status_code == 200
        thread = threading.Thread(target=server.drain)
        thread.start()
        deadline = time.monotonic() + 1.5
        while httpx.get(f"{server.http_url}/readyz").status_code != 503:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert httpx.get(f"{server.http_url}/healthz").status_code == 200
        thread.join(5)
