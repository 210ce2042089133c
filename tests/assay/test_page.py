"""The pages at `/` and `/status`, in a real browser, in front of a real server."""

import base64
import json
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from assay_doubles import MeanScorer, grey
from browser import open_browser

from assay.images import encode
from assay.outcomes import Detection, Evidence, Failed, Outcome, Scored
from assay.serving import http_models
from assay.serving.page_files import page_files
from assay.serving.scorer import Sample
from assay.testing import BackgroundServer, serve_in_background

TOKEN = "a-token-of-sixteen-or-more"
ENTERED = "#scorer:not([disabled]), .scorer"
HOSTILE = "<img src=x onerror='window.stolen=1'><script>window.stolen=1</script>"
MODELS = {
    "geneval": http_models.JsonGenEvalTask,
    "outcome": http_models.JsonOutcomeTask,
    "potential": http_models.JsonPotentialTask,
    "spatial": http_models.JsonSpatialTask,
    "pointing": http_models.JsonPointingTask,
}


class Seeing(MeanScorer):
    """Says that it sees a box and a point at known places, in words that would like to be HTML; remembers samples."""

    def __init__(self) -> None:
        super().__init__("seeing", HOSTILE)
        self.seen: list[Sample] = []

    def score(self, batch: Sequence[Sample]) -> list[Outcome]:
        self.seen = [*batch]
        seen = Detection(HOSTILE, 0.5, (4.0, 4.0, 12.0, 12.0), HOSTILE)
        text = "much " * 10_000 if batch[0].prompt == "much" else HOSTILE
        evidence = Evidence((seen,), HOSTILE, text, ((8.0, 8.0),))
        bad = Failed("INVALID_ARGUMENT", "REFUSED", HOSTILE)
        return [bad if sample.prompt == "refuse" else Scored(0.25, {HOSTILE: 0.25}, evidence) for sample in batch]


@pytest.fixture(scope="module")
def seeing() -> Seeing:
    return Seeing()


@pytest.fixture(scope="module")
def server(seeing: Seeing) -> Iterator[BackgroundServer]:
    scorers = [seeing, MeanScorer("mean", tasks=("OutcomeTask",)), MeanScorer("counts", tasks=("GenEvalTask",))]
    with serve_in_background(scorers, http_port=0, token=TOKEN) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as browser:
        yield browser


@pytest.fixture
def open_page(browser: Any, server: BackgroundServer) -> Iterator[Callable[..., Any]]:
    """Open a path of the server; at the end nothing may have gone elsewhere or have failed in a script."""
    contexts, elsewhere, errors = [], [], []

    def opened(path: str = "/", token: str | None = TOKEN, **options: Any) -> Any:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "request", lambda request: elsewhere.append(request.url) if server.http_url not in request.url else None
        )
        page.goto(f"{server.http_url}{path}")
        if token is not None:
            page.get_by_label("Token").fill(token)
            page.get_by_label("Token").press("Enter")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert errors == []
    assert [url for url in elsewhere if not url.startswith("blob:")] == []


def choose(page: Any, scorer: str, *names: str) -> None:
    page.wait_for_selector("#scorer:not([disabled])")
    page.get_by_label("Scorer").select_option(scorer)
    files = [{"name": name, "mimeType": "image/png", "buffer": encode(grey(51), "PNG")} for name in names]
    page.set_input_files("#files", files)
    page.wait_for_function("count => document.querySelectorAll('#chosen li').length === count", arg=len(names))


def press_score(page: Any) -> None:
    page.get_by_role("button", name="Score", exact=True).click()


def test_images_are_scored_and_what_was_seen_is_drawn(open_page: Callable[..., Any]) -> None:
    page = open_page()
    choose(page, "seeing", "one.png", "two.png")
    press_score(page)
    page.wait_for_selector(".card >> nth=1")
    assert page.locator(".card .value").all_inner_texts() == ["0.25", "0.25"]
    assert page.locator("#message").inner_text() == "2 scored"
    assert page.locator(".timing li").all_inner_texts()[-1] == "batch of 2"
    pixel = "([x, y]) => { const c = document.querySelector('.card canvas'); const s = c.width / 16; "
    pixel += (
        "return [...c.getContext('2d').getImageData(Math.round(x * s), Math.round(y * s), 1, 1).data].slice(0, 3) }"
    )
    assert page.evaluate(pixel, [1, 1]) == [51, 51, 51]
    assert page.evaluate(pixel, [12, 10]) == [0xFF, 0x3B, 0x5C]  # the box's right side
    assert page.evaluate(pixel, [8, 8]) == [0xFF, 0x3B, 0x5C]  # the point
    assert page.evaluate(pixel, [10, 10]) == [51, 51, 51]  # inside the box, beside the point


#: Lets files fall on the page; the list of a drop is empty once its event is over.
DROP = """
([names, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  for (const name of names) transfer.items.add(new File([bytes], name, { type: "image/png" }));
  const files = [...transfer.files];
  Object.defineProperty(transfer, "files", { value: files });
  const drop = new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true });
  const isOpened = document.querySelector("h1").dispatchEvent(drop);
  files.length = 0;
  return isOpened;
}
"""


def test_images_that_are_dropped_anywhere_are_all_scored(open_page: Callable[..., Any]) -> None:
    page = open_page()
    page.wait_for_selector("#scorer:not([disabled])")
    picture = base64.b64encode(encode(grey(51), "PNG")).decode()
    assert not page.evaluate(DROP, [["one.png", "two.png"], picture]), "the browser would open the picture"
    page.wait_for_selector("#chosen li")
    press_score(page)
    page.wait_for_selector("#message >> text=scored")
    assert page.locator("#chosen li span").all_inner_texts() == ["one.png", "two.png"]
    assert page.locator("#message").inner_text() == "2 scored"


def test_nothing_that_the_service_says_is_read_as_html(open_page: Callable[..., Any]) -> None:
    page = open_page()
    choose(page, "seeing", f"{HOSTILE.replace('/', '')}.png")
    press_score(page)
    page.wait_for_selector(".card .value")
    shown = page.locator(".card").inner_text() + page.locator(".fingerprint").inner_text()
    assert shown.count(HOSTILE) == 6  # label, colour, reason, judge, component, fingerprint
    page.get_by_label("Prompt").fill("refuse")
    press_score(page)
    assert "REFUSED" in page.locator(".card .error").inner_text()
    page.goto(page.url + "status")
    page.wait_for_selector(".scorer code")
    assert HOSTILE in page.locator("#scorers").inner_text()
    assert page.evaluate("window.stolen") is None
    assert page.locator("img, main script").count() == 0


def test_the_policy_stops_scripts_that_got_in(open_page: Callable[..., Any]) -> None:
    page = open_page()
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.stolen = 1'}))"
    )
    page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<button id=bad onclick=\"window.stolen = 1\">x</button>')"
    )
    page.locator("#bad").click()
    assert page.evaluate("window.stolen") is None
    refused = page.evaluate("fetch('https://example.com/').then(() => 'sent', (error) => error.name)")
    assert refused == "TypeError"


def test_a_wrong_token_is_told_and_a_right_one_is_kept_for_the_tab_alone(open_page: Callable[..., Any]) -> None:
    page = open_page(token="wrong-token-of-that-length")
    page.wait_for_selector("#message .error >> text=TOKEN_WRONG")  # before it: that there was none
    assert page.locator("#message .error").inner_text().count("request ") == 1
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_label("Token").press("Enter")
    page.wait_for_selector("#scorer:not([disabled])")
    assert page.locator("#message .error").count() == 0
    page.get_by_role("link", name="Status").click()
    page.wait_for_selector(".scorer")
    assert page.evaluate("[localStorage.length, document.cookie, location.search]") == [0, "", ""]


@pytest.mark.parametrize("path", ["/", "/status"])
@pytest.mark.parametrize("first_is_right", [False, True], ids=["late refusal", "late answer"])
def test_an_answer_to_a_former_token_comes_too_late(
    open_page: Callable[..., Any], path: str, first_is_right: bool
) -> None:
    page = open_page(path, token=None)
    page.wait_for_selector("#message .error")  # there was none
    tokens = [TOKEN, "wrong-token-of-that-length"] if first_is_right else ["wrong-token-of-that-length", TOKEN]
    held: list[Any] = []

    def hold_the_first(route: Any) -> None:
        held.append(route) if route.request.headers["authorization"] == f"Bearer {tokens[0]}" else route.continue_()

    page.route(re.compile("/v1/(scorers|status)$"), hold_the_first)
    for token in tokens:
        with page.expect_request(re.compile("/v1/(scorers|status)$")):
            page.get_by_label("Token").fill(token)
            page.get_by_label("Token").press("Enter")
    page.wait_for_selector("#message .error >> text=/TOKEN_WRONG|TOO_MANY/" if first_is_right else ENTERED)
    with page.expect_response(lambda response: response.request == held[0].request) as late:
        held[0].continue_()
    late.value.finished()
    page.evaluate("new Promise((done) => setTimeout(done, 100))")  # for what the page makes of it
    shown = [page.locator(selector).count() > 0 for selector in ("#message .error", ENTERED)]
    assert shown == [first_is_right, not first_is_right]


def test_refusals_of_the_whole_call_are_told(open_page: Callable[..., Any]) -> None:
    page = open_page()
    page.wait_for_selector("#scorer:not([disabled])")
    press_score(page)
    assert "Choose an image first" in page.locator("#message").inner_text()
    broken = {"name": "x.png", "mimeType": "image/png", "buffer": b"\x89PNG\r\n\x1a\n"}
    page.set_input_files("#files", [broken])
    page.wait_for_selector("#message .error >> text=NOT_AN_IMAGE")
    choose(page, "mean", *[f"{number}.png" for number in range(65)])
    press_score(page)
    page.wait_for_selector("#message .error >> text=TOO_MANY_ITEMS")
    assert "at most 64" in page.locator("#message").inner_text()


def test_the_forms_are_those_of_the_http_models(open_page: Callable[..., Any]) -> None:
    """A field added to a task of the HTTP door, or another name, must reach the page."""
    page = open_page()
    choose(page, "seeing", "one.png")
    assert set(page.locator("#task option").evaluate_all("options => options.map((option) => option.value)")) == {
        "",
        *(f"TASK_TYPE_{name.upper()}" for name in MODELS),
    }
    for name, model in MODELS.items():
        page.get_by_label("Task", exact=True).select_option(f"TASK_TYPE_{name.upper()}")
        for required in page.locator("#task-fields input[required]").all():
            required.fill("apple")
        made = page.evaluate(
            "name => import('/page/tasks.js').then(({ TASKS }) => TASKS[`TASK_TYPE_${name.toUpperCase()}`].read())",
            name,
        )
        assert set(made) == {field.alias or key for key, field in model.model_fields.items()}
        assert model.model_validate(made).to_task() is not None


def test_geneval_clauses_become_a_task(open_page: Callable[..., Any], server: BackgroundServer) -> None:
    page = open_page()
    choose(page, "counts", "one.png")
    assert not page.get_by_label("Task", exact=True).is_visible()  # there is only one kind
    page.get_by_label("Class").fill("dog")
    page.get_by_role("button", name="Add an object").click()
    page.get_by_label("Class").nth(1).fill("cat")
    page.get_by_label("Colour").nth(1).select_option("red")
    page.get_by_label("Position").nth(1).select_option("left of")
    page.get_by_role("button", name="Add an excluded object").click()
    page.get_by_label("Class").nth(2).fill("dog")
    page.get_by_label("From", exact=True).fill("2")
    with page.expect_request("**/v1/score") as sent:
        press_score(page)
    page.wait_for_selector(".card .value")
    task = json.loads(sent.value.post_data)["items"][0]["task"]
    wanted = [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "color": "red", "position": ["left of", 0]}]
    excluded = [{"class": "dog", "count": 2}]
    assert task == {"type": "geneval", "tag": "position", "include": wanted, "exclude": excluded}


def test_the_images_of_a_pointing_task_are_one_item(open_page: Callable[..., Any], seeing: Seeing) -> None:
    page = open_page()
    choose(page, "seeing", "original.png", "edited.png", "mask.png")
    page.get_by_label("Task", exact=True).select_option("TASK_TYPE_POINTING")
    press_score(page)
    page.wait_for_selector(".card .value")
    assert [len(sample.images) for sample in seeing.seen] == [3]


def test_keys_alone_will_do(open_page: Callable[..., Any]) -> None:
    page = open_page()
    choose(page, "mean", "one.png")
    page.get_by_label("Token").focus()
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.ariaLabel"))
    assert reached[:6] == ["scorer", "files", "Remove one.png", "prompt", "question", "score"]
    page.get_by_role("button", name="Score", exact=True).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".card .value")


@pytest.mark.parametrize("path", ["/", "/status"])
def test_every_control_has_a_name(open_page: Callable[..., Any], path: str) -> None:
    page = open_page(path)
    page.wait_for_selector(ENTERED)
    nameless = "[...document.querySelectorAll('input, select, textarea, button, meter')].filter((control) => "
    nameless += "!control.labels?.length && !control.ariaLabel && !control.textContent.trim()).map((c) => c.outerHTML)"
    assert page.evaluate(nameless) == []


def test_the_status_page_shows_what_happens(open_page: Callable[..., Any], server: BackgroundServer) -> None:
    page = open_page("/status")
    page.wait_for_selector(".scorer")
    item = {"images": [{"format": "jpeg", "data": ""}], "prompt": "a secret prompt"}
    headers = {"authorization": f"Bearer {TOKEN}", "x-request-id": "my-request-7"}
    httpx.post(f"{server.http_url}/v1/score", json={"scorer": "mean", "items": [item]}, headers=headers)
    httpx.post(f"{server.http_url}/v1/score", json={"scorer": "nope", "items": [item]}, headers=headers)
    page.wait_for_selector("#failures >> text=SCORER_NOT_FOUND")  # by itself: it asks again and again
    shown = page.locator("#failures").inner_text()
    assert "my-request-7" in shown
    assert "(unknown)" in shown
    assert "secret" not in page.content()
    assert "IMAGE_UNDECODABLE" in page.locator("#refused").inner_text()
    assert page.locator("#summary .state").inner_text() == "ready"


def test_what_is_held_queued_and_done_is_told_in_numbers(browser: Any) -> None:
    scorer = MeanScorer()
    picture = {"format": "png", "data": base64.b64encode(encode(grey(9), "PNG")).decode()}

    with serve_in_background([scorer], http_port=0) as server, ThreadPoolExecutor() as callers:

        def call(items: int, prompt: str) -> Any:
            body = {"scorer": "mean", "items": [{"images": [picture], "prompt": prompt}] * items}
            return callers.submit(httpx.post, f"{server.http_url}/v1/score", json=body, timeout=60)

        page = browser.new_page()
        try:
            page.goto(f"{server.http_url}/status")
            shows(page, items_held=0, calls_in_flight=0, items_queued=0)
            held = [call(1, "wait")]
            shows(page, items_held=1, calls_in_flight=1, items_queued=0)  # the model has it
            held.append(call(3, ""))
            shows(page, items_held=4, calls_in_flight=2, items_queued=3)
            assert rate(page) == 0
            scorer.gate.set()
            assert [len(one.result().json()["results"]) for one in held] == [1, 3]
            shows(page, items_held=0, calls_in_flight=0, items_queued=0)
            call(60, "").result()
            page.wait_for_function("() => !document.querySelector('.tile .value').textContent.startsWith('0.')")
            assert 1 <= rate(page) <= 64
        finally:
            scorer.gate.set()
            page.close()


def shows(page: Any, items_held: int, calls_in_flight: int, items_queued: int) -> None:
    """Wait until it does: it asks every other second."""
    for title, value in (("Items held", items_held), ("Calls in flight", calls_in_flight)):
        page.locator(".tile", has_text=re.compile(f"^{title}\\s*{value}$")).wait_for()
    page.wait_for_selector(f".scorer >> text=/ {items_queued} items queued/")


def rate(page: Any) -> float:
    return float(page.locator(".tile", has_text="Items per second").locator(".value").inner_text())


def test_kept_scores_are_told(browser: Any) -> None:
    with serve_in_background([MeanScorer()], http_port=0, max_cache_bytes=10_000) as server:
        item = {"images": [{"format": "png", "data": base64.b64encode(encode(grey(9), "PNG")).decode()}]}
        for _ in range(2):
            answer = httpx.post(f"{server.http_url}/v1/score", json={"scorer": "mean", "items": [item]}).json()
        assert answer["timing"]["spared_items"] == 1
        page = browser.new_page()
        page.goto(f"{server.http_url}/status")
        page.wait_for_selector(".tile:has-text('Scores kept') >> text=1")
        page.close()


def contrast(one: str, other: str) -> float:
    """WCAG 2's ratio of two colours, #rrggbb or #rgb."""

    def luminance(color: str) -> float:
        digits = color.lstrip("#") if len(color) == 7 else "".join(digit * 2 for digit in color.lstrip("#"))
        linear = []
        for channel in bytes.fromhex(digits):
            share = channel / 255
            linear.append(share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4)
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_can_be_read_in_light_and_dark(scheme: int) -> None:
    assert contrast("#000", "#fff") == pytest.approx(21)
    style = page_files()["/page/style.css"][0].decode()
    colors = dict(re.findall(r"--([\w-]+): (#\w+)", style.split(":root {")[scheme + 1].split("}")[0]))
    pairs = [("text", "panel"), ("text", "ground"), ("soft", "panel"), ("soft", "ground"), ("accent", "panel")]
    for text, ground in [*pairs, ("on-accent", "accent"), ("bad", "bad-ground"), ("good", "good-ground")]:
        assert contrast(colors[text], colors[ground]) >= 4.5, (text, ground)


def test_the_files_of_the_page_are_all_there_and_under_the_policy(server: BackgroundServer) -> None:
    linked = set()
    for path in page_files():
        response = httpx.get(f"{server.http_url}{path}")
        assert response.status_code == 200
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        if path.endswith(".js"):
            linked |= {f"/page/{name}" for name in re.findall(r'from "\./(\w+\.js)"', response.text)}
            assert "innerHTML" not in response.text
        if response.headers["content-type"].startswith("text/html"):
            linked |= set(re.findall(r'(?:src|href)="(/[^"]*)"', response.text))
            assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|style=", response.text)
    assert linked == page_files().keys()
    folder = Path(http_models.__file__).with_name("page")
    assert {file.name for file in folder.iterdir()} >= {name.rsplit("/")[-1] for name in linked if "/page/" in name}


def test_cancelling_while_the_answer_comes_in_is_no_error(open_page: Callable[..., Any]) -> None:
    page = open_page()
    choose(page, "seeing", "one.png")
    page.get_by_label("Prompt").fill("much")
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    slow = {"offline": False, "latency": 0, "downloadThroughput": 500, "uploadThroughput": -1}  # bytes a second
    network.send("Network.emulateNetworkConditions", slow)
    with page.expect_response("**/v1/score"):  # its head
        press_score(page)
    page.get_by_role("button", name="Cancel").click()
    page.locator("#message", has_text="Cancelled.").or_(page.locator(".error")).first.wait_for()
    assert page.locator(".error").count() == 0
    assert page.get_by_role("button", name="Score", exact=True).is_enabled()
