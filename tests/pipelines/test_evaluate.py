"""`assay evaluate geneval` end to end: the miniature generator, and a real GenEval service over gRPC."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from assay.errors import ConfigError, ServiceUnavailableError
from assay.outcomes import Failed
from assay.testing import serve_in_background
from miniature.prompts import counting_metadata, scene_for
from pipelines import status_command
from pipelines.evaluate.command import evaluate_geneval
from services.geneval.service import build_scorers

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    config = yaml.safe_load((ROOT / "configs/services/geneval.yaml").read_text())["scorer"]
    with serve_in_background(build_scorers(config)) as server:
        yield server.target


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three prompts with two exact pictures each, in GenEval's layout; the second picture of the last is wrong."""
    rng = np.random.default_rng(0)
    for index, count in enumerate((1, 2, 3)):
        task = counting_metadata("cup", count)
        folder = tmp_path / "given" / f"{index:05d}"
        (folder / "samples").mkdir(parents=True)
        (folder / "metadata.jsonl").write_text(json.dumps(task))
        for k in range(2):
            shown = counting_metadata("cup", 2) if (index, k) == (2, 1) else task
            Image.fromarray(scene_for(shown, rng).render()).save(folder / "samples" / f"{k:05d}.png")
    return tmp_path / "given"


def evaluate(output: Path, target: str, *overrides: str) -> int:
    return evaluate_geneval(None, [f"output={output}", f"targets=[{target!r}]", *overrides])


def summary(output: Path) -> dict[str, Any]:
    return json.loads((output / "summary.json").read_text())


def test_images_already_made(images: Path, target: str, tmp_path: Path) -> None:
    assert evaluate(tmp_path / "out", target, f"images={images}") == 0
    numbers = summary(tmp_path / "out")
    assert numbers["overall"][0] == numbers["images"][0] == pytest.approx(5 / 6, abs=1e-6)
    assert numbers["prompts"][0] == 1.0
    assert numbers["counting"]["counts"] == {"1": 1.0, "2": 1.0, "3": 0.5}
    lines = [json.loads(line) for line in (tmp_path / "out/results.jsonl").open()]
    wrong = [line for line in lines if not line["correct"]]
    assert [(line["index"], line["sample"]) for line in wrong] == [(2, 1)]
    assert "found 2" in wrong[0]["reason"]
    assert (tmp_path / "out" / wrong[0]["filename"]).resolve() == (images / "00002/samples/00001.png").resolve()
    assert "| overall | 0.833 |" in (tmp_path / "out/table.md").read_text()
    assert Image.open(tmp_path / "out/confusion.png").width > 300
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("<figure>") == 6
    assert "Wrong: 1" in page


def test_a_generator_is_sampled_once_and_scored(target: str, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(counting_metadata("cup", count)) + "\n" for count in (1, 2, 3)))
    arguments = [f"model={ROOT}/miniature/weights/sd3", f"prompts={prompts}", "num_images=3", "num_steps=2"]
    arguments += ["guidance_scale=1.0", "height=64", "width=64", "max_sequence_length=0", "batch_size=2"]
    assert evaluate(tmp_path / "out", target, *arguments) == 0
    assert summary(tmp_path / "out")["scored"] == 9
    made = sorted((tmp_path / "out/images").rglob("*.png"))
    assert [path.name for path in made[:3]] == ["0000.png", "0001.png", "0002.png"]
    assert json.loads((tmp_path / "out/images/00001/metadata.jsonl").read_text())["prompt"] == "a photo of two cups"
    times = {path: path.stat().st_mtime_ns for path in made}
    assert evaluate(tmp_path / "out", target, *arguments, "scorer=counting") == 0, "another scorer, the same images"
    assert times == {path: path.stat().st_mtime_ns for path in made}
    # What was made is itself a folder that can be evaluated: another way to the same numbers.
    assert evaluate(tmp_path / "again", target, f"images={tmp_path}/out/images", "scorer=counting") == 0
    one, other = summary(tmp_path / "out"), summary(tmp_path / "again")
    assert one == other


def test_comparison_shows_what_changed(images: Path, target: str, tmp_path: Path) -> None:
    evaluate(tmp_path / "before", target, f"images={images}")
    samples = images / "00002/samples"
    shutil.copy(samples / "00000.png", samples / "00001.png")
    shutil.copy(samples / "00000.png", images / "00000/samples/00000.png")
    assert evaluate(tmp_path / "after", target, f"images={images}", f"against={tmp_path}/before") == 0
    comparison = summary(tmp_path / "after")["comparison"]
    assert (comparison["better"], comparison["worse"], comparison["pairs"]) == (1, 1, 6)
    page = (tmp_path / "after/report.html").read_text()
    assert "Better: 1" in page
    assert "Worse: 1" in page
    assert page.count('<figure class="pair">') == 2


def test_what_cannot_be_judged_is_named_and_the_rest_is_scored(images: Path, target: str, tmp_path: Path) -> None:
    (images / "00000/samples/00001.png").write_bytes(b"no picture")
    bad = {"00003": '{"tag": "taste", "include": [{"class": "cup", "count": 1}], "prompt": "a tasty cup"}'}
    bad["00004"] = '{"tag": "counting", "include": [{"count": 1}], "prompt": "one of what?"}'
    bad["00005"] = '{"tag": "counting"'
    bad["00006"] = '{"tag": "counting", "include": [{"class": "dragon", "count": 1}], "prompt": "a dragon"}'
    for name, line in bad.items():
        shutil.copytree(images / "00001/samples", images / name / "samples")
        (images / name / "metadata.jsonl").write_text(line)
    (images / "00007/samples").mkdir(parents=True)
    (images / "00007/metadata.jsonl").write_text(json.dumps(counting_metadata("cup", 1)))
    (images / "00008/samples").mkdir(parents=True)
    assert evaluate(tmp_path / "out", target, f"images={images}") == 1
    numbers = summary(tmp_path / "out")
    assert numbers["scored"] == 5
    assert numbers["unscored"] == 3, "an image that is none, and two of a class that the service does not know"
    assert numbers["prompt_states"] == {"planned": 9, "done": 4, "failed": 5}
    assert "NOT ALL PROMPTS: 4 of 9, 5 failed" in (tmp_path / "out/table.md").read_text()
    assert "NOT ALL PROMPTS" in (tmp_path / "out/report.html").read_text()
    assert numbers["images"][0] == pytest.approx(4 / 5)
    messages = "\n".join(numbers["failures"])
    assert "00003/metadata.jsonl: tag = 'taste'; allowed: single_object, two_object" in messages
    assert "00004/metadata.jsonl: include[0] = {'count': 1}; allowed: an object with a class" in messages
    assert "00005/metadata.jsonl: not valid JSON" in messages
    assert "00007/samples: there are no images" in messages
    assert "00008/metadata.jsonl: there is no such file" in messages
    errors = [json.loads(line)["error"] for line in (tmp_path / "out/results.jsonl").open()]
    assert sum("00006/metadata.jsonl" in str(error) and "'dragon'" in str(error) for error in errors) == 2
    assert sum("00000/samples/00001.png" in str(error) for error in errors) == 1


@pytest.mark.parametrize(
    ("overrides", "error", "says"),
    [
        (["images=/nowhere"], ConfigError, "there is no folder <index>/samples"),
        (["model=x", "images=y"], ConfigError, "give either model or images"),
        (["images=y", "lora=z"], ConfigError, "lora goes with model"),
        (["model=no/such-model"], ConfigError, "no/such-model"),
        ([f"model={ROOT}/miniature", "prompts=/nowhere.jsonl"], ConfigError, "prompts = /nowhere.jsonl: there is no"),
        (["images=y", "scorer=beauty"], ConfigError, "scorer = 'beauty'; allowed: counting, geneval"),
        (["images=y", "against=/nowhere"], ConfigError, "/nowhere/results.jsonl: there is no such file"),
    ],
)
def test_wrong_settings_are_refused(
    overrides: list[str], error: type[Exception], says: str, target: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=says):
        evaluate(tmp_path / "out", target, *overrides)


def test_a_lora_of_another_model_is_refused(target: str, tmp_path: Path, tiny_lora: Path) -> None:
    with pytest.raises(ConfigError, match="does not fit model"):
        evaluate(tmp_path / "out", target, f"model={ROOT}/miniature/weights/sd3", f"lora={tiny_lora}")
    with pytest.raises(ConfigError, match="holds no LoRA"):
        evaluate(tmp_path / "out", target, f"model={ROOT}/miniature/weights/sd3", f"lora={tmp_path}")


def test_files_that_cannot_be_read_are_their_prompts_errors(images: Path, target: str, tmp_path: Path) -> None:
    (images / "00000/samples/00001.png").unlink()
    (images / "00000/samples/00001.png").symlink_to("/nowhere.png")
    (images / "00001/metadata.jsonl").write_bytes(b'{"tag": "\xff"}')
    assert evaluate(tmp_path / "out", target, f"images={images}") == 1
    numbers = summary(tmp_path / "out")
    assert (numbers["scored"], numbers["unscored"]) == (3, 1)
    assert "00001/metadata.jsonl: not valid JSON" in numbers["failures"][0]
    lines = [json.loads(line) for line in (tmp_path / "out/results.jsonl").open()]
    assert [line["sample"] for line in lines if line["error"]] == [1]


def test_an_error_of_the_service_is_tried_again_and_never_kept(images: Path, tmp_path: Path) -> None:
    """Out of memory is no judgement: it must not be written down as one."""
    config = yaml.safe_load((ROOT / "configs/services/geneval.yaml").read_text())["scorer"]
    scorers = build_scorers(config)
    failing = FailsAtFirst(next(scorer for scorer in scorers if scorer.info.name == "geneval"), times=2)
    with serve_in_background([failing]) as server:
        assert evaluate(tmp_path / "out", server.target, f"images={images}") == 0
    assert summary(tmp_path / "out")["scored"] == 6
    assert failing.failed == 2
    with serve_in_background([FailsAtFirst(failing.scorer, times=10**6)]) as server:
        assert evaluate(tmp_path / "never", server.target, f"images={images}", "retries=0") == 1
    assert summary(tmp_path / "never")["prompt_states"] == {"planned": 3, "done": 0, "failed": 3}
    assert summary(tmp_path / "never")["overall"] is None


def test_a_comparison_stays_when_the_summary_is_derived_again(images: Path, target: str, tmp_path: Path) -> None:
    evaluate(tmp_path / "before", target, f"images={images}")
    evaluate(tmp_path / "after", target, f"images={images}", f"against={tmp_path}/before")
    wanted = summary(tmp_path / "after")
    assert "comparison" in wanted
    assert status_command.summary(tmp_path / "after") == 0
    assert summary(tmp_path / "after") == wanted


def test_max_prompts_leaves_the_others_planned(images: Path, target: str, tmp_path: Path) -> None:
    assert evaluate(tmp_path / "out", target, f"images={images}", "max_prompts=1") == 0
    assert summary(tmp_path / "out")["prompt_states"] == {"planned": 3, "done": 1, "failed": 0}
    evaluate(tmp_path / "out", target, f"images={images}")
    evaluate(tmp_path / "out", target, f"images={images}", "max_prompts=1")
    assert summary(tmp_path / "out")["scored"] == 6, "what is there is in the numbers"


class FailsAtFirst:
    """A scorer that gives no score for the first `times` images that it is asked about."""

    def __init__(self, scorer: Any, times: int) -> None:
        self.scorer, self.left, self.failed = scorer, times, 0
        self.info = scorer.info

    def score(self, batch: Any) -> list[Any]:
        outcomes = list(self.scorer.score(batch))
        for index in range(len(outcomes)):
            if self.left:
                outcomes[index] = Failed("RESOURCE_EXHAUSTED", "OUT_OF_MEMORY", "no room for this image")
                self.left -= 1
                self.failed += 1
        return outcomes


def test_no_service_is_said(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.reward_service.WAIT_FOR_SERVICE_S", 0.5)
    with pytest.raises(ServiceUnavailableError, match="localhost:1"):
        evaluate(tmp_path / "out", "localhost:1", f"images={images}")
