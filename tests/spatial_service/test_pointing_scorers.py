"""`correspondence` and `difference`, before a real HTTP server of RoboRefer's: frames, truth, and what is never a
number by mistake."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from roborefer_server import RoboReferServer

from assay.client import RewardClient
from assay.errors import ConfigError
from assay.outcomes import Failed, Outcome, Scored
from assay.serving.scorer import Sample, Scorer
from assay.tasks import OutcomeTask, PointingTask, SpatialTask, Task
from assay.testing import serve_in_background
from services.spatial.service import build_scorers

Image = NDArray[np.uint8]
WIDTH, HEIGHT = 40, 20


def _view(shade: int, width: int = WIDTH) -> Image:
    return np.full((HEIGHT, width, 3), shade, np.uint8)


def _mask(visible: bool = True) -> Image:
    """A target in columns 10 to 19 and rows 5 to 14: its centre is (0.375, 0.5)."""
    mask = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    mask[5:15, 10:20] = 255 if visible else 0
    return mask


def _config(server: RoboReferServer, **changes: Any) -> dict[str, Any]:
    backend = {"name": "roborefer", "base_url": server.base_url, "weights": "2B-SFT", "deadline_s": 20}
    scorers = ["correspondence", "difference"]
    return {"scorers": scorers, "pointing": {"family": "roborefer"}, "backend": backend | changes}


@pytest.fixture
def scorers(roborefer: RoboReferServer) -> dict[str, Scorer]:
    return {scorer.info.name: scorer for scorer in build_scorers(_config(roborefer))}


def _score(
    scorers: dict[str, Scorer],
    server: RoboReferServer,
    said: str,
    *,
    visible: bool = True,
    concat: bool = False,
    name: str = "correspondence",
) -> Scored:
    views = (_view(60, 2 * WIDTH),) if concat else (_view(50), _view(60))
    server.answer = lambda text, images: said
    outcome = scorers[name].score([Sample("x", (*views, _mask(visible)), "", PointingTask())])[0]
    assert isinstance(outcome, Scored), outcome
    return outcome


@pytest.mark.parametrize("name", ["correspondence", "difference"])
def test_a_hit_by_hand(scorers: dict[str, Scorer], roborefer: RoboReferServer, name: str) -> None:
    """(0.475, 0.75) is pixel (19, 15), one row below the target; (0.475, 0.7) is on it."""
    hit = _score(scorers, roborefer, "[(0.475, 0.7), (0.9, 0.9)]", name=name)
    assert hit.value == 1.0
    assert hit.components == {
        "hit": 1.0,
        "parsed": 1.0,
        "visible_predicted": 1.0,
        "visible_true": 1.0,
        "x": 0.475,
        "y": 0.7,
        "l2": pytest.approx(math.sqrt(0.1**2 + 0.2**2)),
        "l2_px": pytest.approx(math.sqrt(4.0**2 + 4.0**2)),
    }
    assert hit.evidence is not None
    assert hit.evidence.judge_text == "[(0.475, 0.7), (0.9, 0.9)]"
    assert hit.evidence.points == (pytest.approx((19.0, 14.0)), pytest.approx((36.0, 18.0)))
    assert "first point of 2 lies on the target" in hit.evidence.reason
    assert "in pixels of the query, 40 x 20" in hit.evidence.reason
    miss = _score(scorers, roborefer, "[(0.475, 0.75), (0.375, 0.5)]", name=name)
    assert (miss.value, miss.components["hit"]) == (0.0, 0.0)
    assert miss.components["l2_px"] == pytest.approx(math.hypot(4.0, 5.0))


@pytest.mark.parametrize(
    ("said", "visible", "value", "components"),
    [
        ("NOT_VISIBLE", True, 0.0, {"hit": 0, "parsed": 1, "visible_predicted": 0, "visible_true": 1}),
        ("not_visible", False, 1.0, {"hit": 0, "parsed": 1, "visible_predicted": 0, "visible_true": 0}),
        (
            "[(0.375, 0.5)]",
            False,
            0.0,
            {"hit": 0, "parsed": 1, "visible_predicted": 1, "visible_true": 0, "x": 0.375, "y": 0.5},
        ),
        ("I cannot tell.", True, 0.0, {"hit": 0, "parsed": 0, "visible_true": 1}),
        ("I cannot tell.", False, 0.0, {"hit": 0, "parsed": 0, "visible_true": 0}),
        ("[(375, 500)]", True, 0.0, {"hit": 0, "parsed": 0, "visible_true": 1}),
    ],
)
def test_visibility_is_judged_and_what_is_not_known_has_no_component(
    scorers: dict[str, Scorer],
    roborefer: RoboReferServer,
    said: str,
    visible: bool,
    value: float,
    components: dict[str, float],
) -> None:
    scored = _score(scorers, roborefer, said, visible=visible)
    assert (scored.value, scored.components) == (value, components)
    assert scored.evidence is not None
    assert scored.evidence.judge_text == said


def test_side_by_side_the_answer_is_in_the_frame_of_the_whole(
    scorers: dict[str, Scorer], roborefer: RoboReferServer
) -> None:
    """(0.7, 0.5) of the whole is (0.4, 0.5) of the query, pixel (16, 10)."""
    hit = _score(scorers, roborefer, "[(0.7, 0.5)]", concat=True)
    assert hit.value == 1.0
    assert (hit.components["x"], hit.components["y"]) == (pytest.approx(0.4), 0.5)
    assert hit.components["l2_px"] == pytest.approx(1.0)
    assert hit.evidence is not None
    assert hit.evidence.points == (pytest.approx((16.0, 10.0)),)
    # What would be a hit in the frame of the query is none.
    assert _score(scorers, roborefer, "[(0.4, 0.5)]", concat=True).value == 0.0


def test_a_point_on_the_reference_is_a_miss_and_has_no_place_in_the_query(
    scorers: dict[str, Scorer], roborefer: RoboReferServer
) -> None:
    scored = _score(scorers, roborefer, "[(0.2, 0.5)]", concat=True)
    assert scored.value == 0.0
    assert scored.components == {"hit": 0.0, "parsed": 1.0, "visible_predicted": 1.0, "visible_true": 1.0}
    assert scored.evidence is not None
    assert "lies on the reference" in scored.evidence.reason
    assert scored.evidence.points == (pytest.approx((-24.0, 10.0)),)


def test_the_mask_is_not_shown_and_the_question_is_the_callers_or_our_own(
    scorers: dict[str, Scorer], roborefer: RoboReferServer
) -> None:
    """Our own are, for this family, what the x3 tasks are built and models trained with."""
    from pipelines.spatial_tasks.building.prompts import CORRESPONDENCE, DIFFERENCE

    roborefer.requests.clear()
    samples = [
        Sample("own", (_view(50), _view(60), _mask()), "", PointingTask()),
        Sample("given", (_view(50), _view(60), _mask()), "", PointingTask("Where is the {form} of it?")),
        Sample("whole", (_view(60, 2 * WIDTH), _mask()), "", PointingTask("In the right half?")),
    ]
    scorers["correspondence"].score(samples)
    scorers["difference"].score(samples[:1])
    asked = {(one["text"], len(one["image_url"])) for one in roborefer.requests}
    assert asked == {
        (CORRESPONDENCE, 2),
        ("Where is the {form} of it?", 2),
        ("In the right half?", 1),
        (DIFFERENCE, 2),
    }
    assert all((one["depth_url"], one["enable_depth"]) == ([], 0) for one in roborefer.requests)


def test_views_arrive_in_order_and_to_the_pixel(scorers: dict[str, Scorer], roborefer: RoboReferServer) -> None:
    views = list(np.random.default_rng(0).integers(0, 256, (2, HEIGHT, WIDTH, 3), dtype=np.uint8))
    seen: list[Image] = []
    roborefer.answer = lambda text, images: seen.extend(images) or "NOT_VISIBLE"
    scorers["correspondence"].score([Sample("x", (*views, _mask()), "", PointingTask())])
    assert [np.array_equal(one, other) for one, other in zip(seen, views, strict=True)] == [True, True]


@pytest.mark.parametrize(
    ("name", "images", "task", "reason"),
    [
        ("correspondence", (_view(1), _view(2), _mask()), None, "WRONG_TASK_TYPE"),
        ("correspondence", (_view(1), _view(2), _mask()), OutcomeTask(), "WRONG_TASK_TYPE"),
        ("difference", (_view(1), _view(2), _mask()), SpatialTask("a", "near", "b"), "WRONG_TASK_TYPE"),
        ("correspondence", (), PointingTask(), "WRONG_IMAGE_COUNT"),
        ("correspondence", (_mask(),), PointingTask(), "WRONG_IMAGE_COUNT"),
        ("correspondence", (_view(1), _view(2), _view(3), _mask()), PointingTask(), "WRONG_IMAGE_COUNT"),
        ("difference", (_view(2, 2 * WIDTH), _mask()), PointingTask(), "WRONG_IMAGE_COUNT"),
        ("correspondence", (_view(1), _view(2, WIDTH + 1), _mask()), PointingTask(), "MASK_SIZE_MISMATCH"),
        ("correspondence", (_view(1), _mask().transpose(1, 0, 2), _mask()), PointingTask(), "MASK_SIZE_MISMATCH"),
        ("correspondence", (_view(2, 2 * WIDTH - 1), _mask()), PointingTask(), "MASK_SIZE_MISMATCH"),
        ("correspondence", (_view(2), _mask()), PointingTask(), "MASK_SIZE_MISMATCH"),
        ("correspondence", (_view(1), _view(2), _mask()), PointingTask("<image> where?"), "PROMPT_HAS_MARKS"),
        ("correspondence", (_view(1), _view(2), _mask()), PointingTask(" "), "MISSING_PROMPT"),
        ("correspondence", (_view(1), _view(2), _mask()), PointingTask("where? " * 2000), "PROMPT_TOO_LONG"),
    ],
)
def test_a_sample_that_cannot_be_asked_about_fails_alone_and_names_what_is_allowed(
    scorers: dict[str, Scorer],
    roborefer: RoboReferServer,
    name: str,
    images: tuple[Image, ...],
    task: Task | None,
    reason: str,
) -> None:
    roborefer.answer = lambda text, images: "[(0.375, 0.5)]"
    good = Sample("good", (_view(1), _view(2), _mask()), "", PointingTask())
    first, failed, last = scorers[name].score([good, Sample("bad", images, "", task), good])
    assert isinstance(failed, Failed)
    assert (failed.code, failed.reason) == ("INVALID_ARGUMENT", reason)
    assert "allowed" in failed.message or reason == "PROMPT_HAS_MARKS"
    assert all(isinstance(one, Scored) and one.value == 1.0 for one in (first, last))


def test_scores_come_over_grpc_with_points_and_reasons(roborefer: RoboReferServer) -> None:
    roborefer.answer = lambda text, images: "[(0.375, 0.5)]" if images[-1][0, 0, 0] == 60 else "NOT_VISIBLE"
    items = [(_view(50), _view(shade), _mask(visible)) for shade, visible in ((60, True), (61, False), (61, True))]
    with (
        serve_in_background(build_scorers(_config(roborefer))) as server,
        RewardClient([server.target], deadline_s=30) as client,
    ):
        assert {info.name: info.tasks for info in client.list_scorers()} == {
            "correspondence": ("PointingTask",),
            "difference": ("PointingTask",),
        }
        for name in ("correspondence", "difference"):
            outcomes = client.score(
                items, scorer=name, prompts=[""] * 3, tasks=[PointingTask("Where?")] * 3, evidence=True
            )
            assert [one.value for one in outcomes if isinstance(one, Scored)] == [1.0, 1.0, 0.0]
            assert isinstance(outcomes[0], Scored)
            assert outcomes[0].evidence is not None
            assert outcomes[0].evidence.points == ((15.0, 10.0),)


def test_halves_of_characters_do_not_break_the_answer_to_a_call(roborefer: RoboReferServer) -> None:
    """JSON can spell them, and no protobuf string holds them: one such text must not cost a batch its scores."""
    with (
        serve_in_background(build_scorers(_config(roborefer))) as server,
        RewardClient([server.target], deadline_s=30) as client,
    ):
        roborefer.answer = lambda text, images: "\ud800 [(0.375, 0.5)]"
        (outcome,) = client.score(
            [(_view(50), _view(60), _mask())],
            scorer="correspondence",
            prompts=[""],
            tasks=[PointingTask()],
            evidence=True,
        )
    assert isinstance(outcome, Scored), outcome
    assert outcome.value == 1.0
    assert outcome.evidence is not None
    assert outcome.evidence.judge_text == "? [(0.375, 0.5)]"


def _failure(outcome: Outcome) -> Failed:
    assert isinstance(outcome, Failed), outcome
    return outcome


@pytest.mark.parametrize(
    ("faults", "code", "reason"),
    [
        ([500], "INTERNAL", "JUDGE_REFUSED"),
        ([503, 503], "UNAVAILABLE", "JUDGE_UNAVAILABLE"),
        ([b"no json"], "INTERNAL", "JUDGE_UNREADABLE"),
        ([b"[" * 100_000], "INTERNAL", "JUDGE_UNREADABLE"),
        ([b"[1]"], "INTERNAL", "JUDGE_UNREADABLE"),
        ([b'{"result": 0, "answer": "[(0.375, 0.5)]"}'], "INTERNAL", "JUDGE_REFUSED"),
        ([b'{"result": 1}'], "INTERNAL", "JUDGE_UNREADABLE"),
        ([b'{"result": 1, "answer": [[0.375, 0.5]]}'], "INTERNAL", "JUDGE_UNREADABLE"),
        ([3.0], "DEADLINE_EXCEEDED", "JUDGE_TOO_SLOW"),
    ],
)
def test_what_the_server_does_wrong_fails_the_item_and_is_no_zero(
    roborefer: RoboReferServer, faults: list[Any], code: str, reason: str
) -> None:
    changes = {"max_attempts": 2, "max_concurrency": 1, "deadline_s": 1.5}
    scorer = build_scorers(_config(roborefer, **changes))[0]
    sample = Sample("x", (_view(1), _view(2), _mask()), "", PointingTask())
    roborefer.faults.extend(faults)
    began = time.monotonic()
    failed, scored = scorer.score([sample, sample])
    assert time.monotonic() - began < 6
    assert (_failure(failed).code, _failure(failed).reason) == (code, reason)
    assert isinstance(scored, Scored) or reason == "JUDGE_TOO_SLOW"


def test_a_busy_server_is_asked_again(roborefer: RoboReferServer) -> None:
    scorer = build_scorers(_config(roborefer))[0]
    roborefer.faults.extend([429, 503])
    roborefer.requests.clear()
    outcome = scorer.score([Sample("x", (_view(1), _view(2), _mask()), "", PointingTask())])[0]
    assert isinstance(outcome, Scored)
    assert len(roborefer.requests) == 1


def test_a_server_that_is_none_is_refused_at_the_start(roborefer: RoboReferServer) -> None:
    roborefer.faults.append(b'{"result": 0}')
    with pytest.raises(ConfigError, match=r"backend\.base_url = 'http://127.*says that it has no result"):
        build_scorers(_config(roborefer))
    with pytest.raises(ConfigError, match=r"backend\.base_url = 'http://127\.0\.0\.1:9': .*could not be reached"):
        build_scorers(_config(roborefer, base_url="http://127.0.0.1:9", max_attempts=1))


def test_fingerprints_follow_family_weights_and_questions(roborefer: RoboReferServer, tmp_path: Path) -> None:
    def fingerprints(config: dict[str, Any]) -> list[str]:
        return [scorer.info.fingerprint for scorer in build_scorers(config)]

    plain = fingerprints(_config(roborefer))
    (tmp_path / "asked.txt").write_text("<image><image> Where? {form}")
    templates = {"templates": {"difference": str(tmp_path / "asked.txt")}}
    assert fingerprints(_config(roborefer, max_concurrency=2)) == plain
    assert fingerprints({**_config(roborefer), **templates})[0] == plain[0]
    assert (
        len(
            {
                *plain,
                fingerprints({**_config(roborefer), **templates})[1],
                *fingerprints(_config(roborefer, weights="8B")),
            }
        )
        == 5
    )
