"""`assay generate --score spatial`: what a service is asked, what is made of its answers, and what costs no image."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from brightness_judge import LEFT, NEAR, Brightness, brightness
from generate_job import VARIANT, Job

from assay.errors import AssayError, ConfigError, ServiceUnavailableError
from assay.serving.scorer import ScorerInfo
from assay.testing import FaultInjector, serve_in_background
from pipelines.generate.settings import GenerateSettings
from pipelines.generate.spatial_scores import in_words, summarize
from pipelines.status_command import status, summary

UNKNOWN = {**LEFT, "relation": "astride"}


@pytest.fixture
def judge() -> Brightness:
    return Brightness()


@pytest.fixture
def target(judge: Brightness) -> Iterator[str]:
    with serve_in_background([judge]) as server:
        yield server.target


@pytest.fixture
def job(tmp_path: Path, tiny_klein: Path) -> Job:
    """Samples 0 and 1 tell a relation, 1 of two of its three images; 2 has no images; 3 and 4 tell none."""
    job = Job(tmp_path, tiny_klein)
    job.edit(0, relation=LEFT)
    job.edit(1, relation=[NEAR, None, LEFT])
    job.edit(2, relation=LEFT)
    job.edit(4, relation=[None, None])
    return job


def score(job: Job, target: str, *overrides: str) -> int:
    return job.run("score=spatial", f"targets=[{target!r}]", *overrides)


def read(job: Job) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(job.tree()[f"{VARIANT}/spatial_scores.json"])
    return found


def images(job: Job) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (job.root / "out").rglob("img_*.png")}


def test_numbers_are_those_of_the_pictures(
    job: Job, judge: Brightness, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(job, target) == 0
    pairs = [  # before, after, of each image that should show something
        (brightness(job.reference(0)), brightness(job.folder(0) / "img_0.png")),
        (brightness(job.reference(1)) - 0.1, brightness(job.folder(1) / "img_0.png") - 0.1),
        (brightness(job.reference(1)), brightness(job.folder(1) / "img_2.png")),
    ]
    before, after = np.mean(pairs, axis=0)
    found = read(job)
    assert found["samples"] == {"planned": 5, "with_relation": 3, "without_relation": 2, "judged": 3, "failed": 0}
    assert found["views"] == {"with_relation": 3, "without_relation": 1, "without_reference": 0, "unscored": 0}
    assert found["before"] == pytest.approx(before, abs=1e-6)
    assert found["after"] == pytest.approx(after, abs=1e-6)
    change, low, high = found["change"]
    assert change == pytest.approx(after - before, abs=2e-6)
    # Of two samples, three sets can be drawn: the one alone, the other alone, both.
    alone = [pairs[0][1] - pairs[0][0], float(np.mean([after - before for before, after in pairs[1:]]))]
    assert (low, high) == pytest.approx((min(alone), max(alone)), abs=2e-6)
    assert (found["pairs"], found["better"] + found["worse"]) == (3, 3)
    assert found["failures"] == []
    assert f"{after:.3f} after" in capsys.readouterr().out
    scores = json.loads((job.folder(1) / "scores.json").read_text())
    assert [view["relation"] for view in scores["views"]] == [NEAR, None, LEFT]
    assert scores["views"][1] == {"image": "img_1.png", "relation": None, "before": None, "after": None}
    assert scores["views"][2]["after"]["value"] == pytest.approx(pairs[2][1], abs=1e-6)
    assert scores["views"][2]["after"]["reason"] == "as bright as that"
    assert json.loads((job.folder(2) / "scores.json").read_text())["views"] == []
    assert not (job.folder(3) / "scores.json").exists()
    assert not (job.folder(4) / "scores.json").exists()
    # Two pictures of sample 0; of sample 1 the reference for each of its relations, and two images.
    assert len(judge.asked) == 2 + 4


def test_scores_come_later_and_images_stay(job: Job, judge: Brightness, target: str) -> None:
    assert job.run() == 0
    before, tree = images(job), job.tree()
    assert not judge.asked
    assert score(job, target) == 0
    asked = len(judge.asked)
    assert score(job, target) == 0
    assert len(judge.asked) == asked, "what is judged is judged"
    assert images(job) == before
    assert {name: content for name, content in job.tree().items() if "scores" not in name} == tree
    assert job.tree()[f"{VARIANT}/stats.json"] == tree[f"{VARIANT}/stats.json"]
    job.edit(0, relation=NEAR)
    assert score(job, target) == 0
    assert judge.asked[asked:] == [("0-0", "near"), ("0-1", "near")]
    assert images(job) == before
    job.edit(1, relation=None)
    assert score(job, target) == 0
    assert not (job.folder(1) / "scores.json").exists()
    assert read(job)["samples"]["without_relation"] == 3


def test_another_judge_judges_again(job: Job, target: str) -> None:
    assert score(job, target) == 0
    other = Brightness("2")
    with serve_in_background([other]) as server:
        assert score(job, server.target) == 0
    assert len(other.asked) == 6


def test_a_service_that_fails_costs_no_image(job: Job) -> None:
    broken = FaultInjector(aborted=1.0, abort_code=grpc.StatusCode.INTERNAL)
    judge = Brightness()
    with serve_in_background([judge], faults=broken) as server:
        assert score(job, server.target, "retries=0") == 1
        made = images(job)
        assert len(made) == 7
        found = read(job)
        assert (found["samples"]["judged"], found["samples"]["failed"]) == (1, 2)  # of sample 2 nothing is asked
        assert (found["change"], found["before"]) == (None, None)
        assert [failure["id"] for failure in found["failures"]] == ["0", "1"]
        broken.aborted = 0.0
        assert score(job, server.target) == 0
    assert images(job) == made
    assert read(job)["pairs"] == 3
    assert read(job)["failures"] == []


def test_no_service_is_said_before_anything_is_made(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.reward_service.WAIT_FOR_SERVICE_S", 0.2)
    with pytest.raises(ServiceUnavailableError):
        score(job, "localhost:1")
    assert not (job.root / "out").exists()


def test_what_cannot_be_judged_is_listed_and_in_no_mean(
    job: Job, judge: Brightness, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job.edit(1, relation=[UNKNOWN, None, LEFT])
    assert score(job, target) == 1
    found = read(job)
    assert (found["pairs"], found["views"]["unscored"]) == (2, 1)
    assert [(one["id"], one["picture"]) for one in found["failures"]] == [(1, "reference"), (1, "img_0.png")]
    assert all("UNKNOWN_RELATION" in one["error"] for one in found["failures"])
    assert "1 images without a score" in capsys.readouterr().out
    judge.abstains = True
    assert score(job, target, "skip_existing=false") == 1
    found = read(job)
    assert (found["pairs"], found["before"], found["views"]["unscored"]) == (0, None, 3)
    assert sum("JUDGE_ABSTAINED" in one["error"] for one in found["failures"]) == 4
    assert found["samples"]["failed"] == 0, "asking again would not help"


def test_an_image_that_is_made_again_keeps_its_scores(job: Job, judge: Brightness, target: str) -> None:
    score(job, target)
    whole, asked = job.tree(), len(judge.asked)
    damaged = job.folder(1) / "img_2.png"
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert score(job, target) == 0
    assert job.tree() == whole
    assert len(judge.asked) == asked


def test_changed_images_are_judged_again(job: Job, judge: Brightness, target: str) -> None:
    score(job, target)
    asked = len(judge.asked)
    score(job, target, "seed=1")
    assert len(judge.asked) == 2 * asked


def test_status_and_summary_know_of_scores(
    job: Job, judge: Brightness, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    score(job, target)
    whole = job.tree()
    (job.root / "out" / VARIANT / "spatial_scores.json").unlink()
    (job.folder(0) / "scores.json").unlink()
    assert summary(job.root / "out") == 0
    assert job.tree() == whole
    assert status(job.root / "out", as_json=True) == 0
    rows = json.loads(capsys.readouterr().out.split("spatial_scores.json\n")[-1])
    assert [(row["stage"], row["done"]) for row in rows] == [("generate", 5), ("spatial", 3)]


def test_where_no_record_tells_a_relation_there_is_nothing_to_compare(
    job: Job, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for line in range(5):
        job.edit(line, relation=None)
    assert score(job, target) == 0
    assert read(job)["samples"]["without_relation"] == 5
    assert read(job)["change"] is None
    assert "nothing to compare; 5 samples without a relation" in capsys.readouterr().out


def test_without_a_reference_there_is_no_before(job: Job, target: str) -> None:
    job.edit(0, image_paths=[])
    assert score(job, target, "height=64", "width=64") == 0
    found = read(job)
    assert (found["pairs"], found["views"]["without_reference"], found["views"]["unscored"]) == (2, 1, 0)
    (view,) = json.loads((job.folder(0) / "scores.json").read_text())["views"]
    assert (view["before"], view["after"]["error"]) == (None, None)


def test_without_score_the_key_is_left_alone(job: Job) -> None:
    """Planners write more than we read, and may mean something else by it."""
    job.edit(0, relation="taller than")
    assert job.run("indices=0") == 0
    assert not (job.root / "out" / VARIANT / "spatial_scores.json").exists()


@pytest.mark.parametrize(
    ("relation", "message"),
    [
        ("left of", r"results.jsonl:2: relation = 'left of'; allowed: an object with subject, relation, reference, or"),
        ([LEFT], r"relation has 1 entries; allowed: 3, one for each of instructions"),
        ([LEFT, 3, None], r"relation\[1\] = 3; allowed: an object"),
        ({**LEFT, "subject": " "}, r"relation.subject = ' '; allowed: a string that is not empty"),
        ({"subject": "a", "relation": "near"}, r"relation.reference = None; allowed: a string"),
        ([None, {**LEFT, "object": "x"}, None], r"relation\[1\].object is unknown; allowed: subject, relation, ref"),
    ],
)
def test_wrong_relations_are_named_by_line_and_field(job: Job, target: str, relation: Any, message: str) -> None:
    job.edit(1, relation=relation)
    with pytest.raises(ConfigError, match=message):
        score(job, target)
    assert not (job.root / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["score=geneval"], r"score = 'geneval': .*'spatial'"),
        (["targets=['a:1']"], r"targets goes with score; allowed for score: spatial"),
        (["deadline_s=3"], r"deadline_s goes with score"),
        (["score=spatial", "targets=[]"], r"targets = \[\]"),
        (["score=spatial", "deadline_s=0"], r"deadline_s = 0: .*greater than 0"),
    ],
)
def test_wrong_settings_are_refused_by_name(job: Job, settings: list[str], message: str) -> None:
    with pytest.raises(AssayError, match=message):
        job.run(*settings)


def test_the_services_own_port_is_asked_unless_told_otherwise() -> None:
    assert GenerateSettings(planning_model="x", score="spatial").targets == ("localhost:50055",)


def test_a_service_without_the_scorer_is_refused(job: Job) -> None:
    other = Brightness()
    other.info = ScorerInfo("geneval", "1" * 16, (0.0, 1.0), True, ("SpatialTask",))
    with (
        serve_in_background([other]) as server,
        pytest.raises(ConfigError, match="scorer = 'relation'; allowed: geneval"),
    ):
        score(job, server.target)


def _sample(id: int, *values: tuple[float, float]) -> dict[str, Any]:
    views = [
        {
            "image": f"img_{k}.png",
            "relation": LEFT,
            "before": {"value": before, "error": None},
            "after": {"value": after, "error": None},
        }
        for k, (before, after) in enumerate(values)
    ]
    return {"id": id, "views": views}


def test_samples_are_redrawn_and_not_images() -> None:
    """One sample of two images that got better, one of one that stayed: sets drawn are both, or one of them twice."""
    found = summarize([_sample(0, (0.0, 1.0), (0.0, 1.0)), _sample(1, (1.0, 1.0))])
    assert found["change"] == [pytest.approx(2 / 3, abs=1e-6), 0.0, 1.0]
    assert (found["before"], found["after"]) == (pytest.approx(1 / 3, abs=1e-6), 1.0)
    assert (found["better"], found["worse"], found["pairs"]) == (2, 0, 3)
    words = in_words({**found, "samples": {"without_relation": 4}})
    assert words == (
        "0.333 before, 1.000 after, change +0.667 [+0.000, +1.000] over 3 images; "
        "4 samples without a relation, 0 images without a score"
    )
