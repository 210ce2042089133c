"""`assay generate` on a real, tiny pipeline: its tree, its statistics, and that runs and batches do not matter."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline
from generate_job import INSTRUCTIONS, VARIANT, Job
from PIL import Image
from tiny_klein import save_tiny_klein, write_planner

from assay.errors import ConfigError
from pipelines.engine.unit import Unit
from pipelines.generate.command import generate, step_warnings
from pipelines.generate.settings import GenerateSettings


@pytest.fixture
def job(tmp_path: Path, tiny_klein: Path) -> Job:
    return Job(tmp_path, tiny_klein)


def test_tree_statistics_and_logs(job: Job) -> None:
    assert job.run() == 0
    images = [f"{VARIANT}/{id}/img_{k}.png" for id, texts in enumerate(INSTRUCTIONS) for k in range(len(texts))]
    assert list(job.tree()) == sorted([*images, f"{VARIANT}/stats.json"])
    assert job.folder(2).is_dir(), "an empty list of instructions gives an empty folder"
    assert {Image.open(job.root / "out" / image).size for image in images} == {(64, 64)}
    assert json.loads(job.tree()[f"{VARIANT}/stats.json"]) == {
        "summary": {
            "number of 0 generation": 1,
            "ratio of 0 generation": 0.2,
            "number of 1 generation": 2,
            "ratio of 1 generation": 0.4,
            "number of 2 generation": 1,
            "ratio of 2 generation": 0.2,
            "number of 3 generation": 1,
            "ratio of 3 generation": 0.2,
        },
        "0 generation": [2],
        "1 generation": [0, 3],
        "2 generation": [4],
        "3 generation": [1],
    }
    for log in (job.root / "out/run.log", job.root / "out" / VARIANT / "run.log"):
        assert "toy/planner/flux2-klein-4B / 1 / generate: done: 3 files" in log.read_text()


def test_pixels_are_those_of_the_pipeline_itself(job: Job, tiny_klein: Path) -> None:
    """A second way to the same picture: diffusers, called as its documentation says, with the unit's seed."""
    assert job.run("height=80", "width=96") == 0
    pipeline = Flux2KleinPipeline.from_pretrained(tiny_klein)
    seed = Unit("0", VARIANT, "generate", "", {}).seed(0, 0)
    image = pipeline(
        image=Image.open(job.reference(0)),
        prompt="add a cup",
        height=80,
        width=96,
        num_inference_steps=2,
        max_sequence_length=32,
        text_encoder_out_layers=(1, 2, 3),
        generator=torch.Generator().manual_seed(seed),
    ).images[0]
    np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(job.folder(0) / "img_0.png")))


def test_what_is_done_is_left_alone(job: Job) -> None:
    job.run()
    before = {path: path.stat().st_mtime_ns for path in (job.root / "out").rglob("img_*.png")}
    assert job.run() == 0
    assert before == {path: path.stat().st_mtime_ns for path in (job.root / "out").rglob("img_*.png")}
    content = job.tree()
    assert job.run("skip_existing=false") == 0
    assert all(path.stat().st_mtime_ns > before[path] for path in before)
    assert job.tree() == content


def test_an_image_depends_on_nothing_but_its_sample(job: Job) -> None:
    """Batching may round differently, by one level at most; shards, indices and the order of runs change nothing."""
    job.run(output="whole")
    for part in ("shard=1/3", "indices=0-1", "shard=0/3", "shard=2/3"):
        job.run(part, output="parts")
    assert job.tree("parts") == job.tree("whole")
    job.run("batch_size=1", output="singly")
    for name in job.tree("whole"):
        if name.endswith(".png"):
            one, other = (np.asarray(Image.open(job.root / out / name)).astype(int) for out in ("whole", "singly"))
            assert abs(one - other).max() <= 1


def test_other_seeds_give_other_images(job: Job) -> None:
    job.run("max_samples=2")
    first = job.tree()
    assert first[f"{VARIANT}/1/img_0.png"] != first[f"{VARIANT}/1/img_1.png"]
    job.run("max_samples=2", "seed=1")
    assert all(first[name] != content for name, content in job.tree().items() if name.endswith(".png"))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda job: None, id="steps"),
        pytest.param(lambda job: job.edit(1, instructions=["other", "remove the cup", "paint it red"]), id="text"),
        pytest.param(
            lambda job: shutil.copy(job.reference(0), job.reference(1)),
            id="reference",
        ),
    ],
)
def test_changed_inputs_are_made_again(job: Job, change: Any, request: pytest.FixtureRequest) -> None:
    job.run("indices=1")
    before = (job.folder(1) / "img_0.png").read_bytes()
    change(job)
    steps = 3 if request.node.callspec.id == "steps" else 2
    job.run("indices=1", f"num_inference_steps={steps}")
    assert (job.folder(1) / "img_0.png").read_bytes() != before


def test_images_of_a_longer_list_do_not_stay(job: Job) -> None:
    job.run()
    job.edit(1, instructions=["add a kite"])
    job.run()
    assert sorted(path.name for path in job.folder(1).glob("[!.]*")) == ["img_0.png"]
    assert json.loads(job.tree()[f"{VARIANT}/stats.json"])["1 generation"] == [0, 1, 3]


def test_a_truncated_image_is_made_again(job: Job) -> None:
    job.run()
    whole = job.tree()
    damaged = job.folder(1) / "img_2.png"
    damaged.write_bytes(damaged.read_bytes()[:100])
    job.run()
    assert job.tree() == whole


def test_images_without_a_ledger_are_not_trusted(job: Job) -> None:
    """As another tool that was killed leaves them."""
    job.folder(0).mkdir(parents=True)
    (job.folder(0) / "img_0.png").write_bytes(b"\x89PNG")
    job.run()
    assert Image.open(job.folder(0) / "img_0.png").size == (64, 64)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda path: path.unlink(), "there is no"),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "not an image that can be read"),
        (lambda path: path.write_text("hello"), "not an image that can be read"),
        (lambda path: Image.new("RGB", (32, 64)).save(path), "Image too small"),
    ],
)
def test_a_bad_reference_fails_its_sample_alone(
    job: Job, break_it: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = job.reference(1)
    kept = reference.read_bytes()
    break_it(reference)
    assert job.run() == 1
    assert not job.folder(1).exists()
    assert "4 done, 1 failed" in capsys.readouterr().out
    failure = next((job.root / "out/.assay/failures").glob("*.json")).read_text()
    assert json.loads(failure)["error_class"] == "UnitError"
    assert message in json.loads(failure)["message"]
    assert json.loads(failure)["attempts"] == 1, "trying again does not help"
    stats = json.loads(job.tree()[f"{VARIANT}/stats.json"])
    assert stats["summary"]["ratio of 1 generation"] == 0.5, "a failed sample is no sample without images"
    reference.write_bytes(kept)
    assert job.run() == 0
    assert len(list(job.folder(1).glob("img_*.png"))) == 3


def test_fail_fast_stops_at_the_first_failure(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    job.reference(1).unlink()
    assert job.run("continue_on_error=false") == 1
    assert "1 done, 1 failed, 3 left" in capsys.readouterr().out


def test_all_planning_models(job: Job) -> None:
    write_planner(job.root, [["a"]], "another")
    root = job.root
    assert (
        generate(
            None,
            [
                "all_planning_models=true",
                f"flux_ckpt={job.checkpoint}",
                f"predicted_instructions_root={root}/predicted_instructions",
                f"data_root={root}",
                f"output_root={root}/out",
                "num_inference_steps=1",
                "max_samples=2",
            ],
        )
        == 0
    )
    assert sorted(str(path.parent.relative_to(root / "out")) for path in root.glob("out/**/stats.json")) == [
        "toy/another/flux2-klein-4B",
        VARIANT,
    ]
    assert "/ 1 / generate" not in (root / "out/toy/another/flux2-klein-4B/run.log").read_text()


def test_paths_as_written_come_before_the_renamed_folder(job: Job) -> None:
    (job.root / "dataset/images").mkdir(parents=True)
    shutil.copy(job.reference(3), job.root / "dataset/images/0.png")
    job.run("indices=0")
    entry = json.loads((job.folder(0) / ".unit.json").read_text())
    job.edit(0, image_paths=["datasets/images/3.png"])
    job.run("indices=0")
    assert json.loads((job.folder(0) / ".unit.json").read_text())["input_hash"] == entry["input_hash"]


def test_several_references_and_none(job: Job) -> None:
    job.edit(0, image_paths=["dataset/images/0.png", "dataset/images/1.png"])
    job.edit(3, image_paths=[])
    assert job.run("height=64", "width=64") == 0
    swapped = (job.folder(0) / "img_0.png").read_bytes()
    job.edit(0, image_paths=["dataset/images/1.png", "dataset/images/0.png"])
    assert job.run("height=64", "width=64") == 0
    assert (job.folder(0) / "img_0.png").read_bytes() != swapped, "the order of references has a meaning"


def test_steps_that_do_not_fit_are_warned_of(job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job.run("num_inference_steps=28", "max_samples=1")
    assert "28 on a distilled checkpoint, which is made for 4: that costs 7 times as much" in capsys.readouterr().err
    settings = GenerateSettings(planning_model="planner", num_inference_steps=4)
    assert step_warnings(settings, distilled=True) == []
    assert "made for 50" in step_warnings(settings, distilled=False)[0]


def test_guidance_counts_on_a_base_checkpoint_alone(job: Job, tmp_path: Path) -> None:
    seen = {}
    for is_distilled in (True, False):
        job.checkpoint = save_tiny_klein(tmp_path / str(is_distilled) / "klein", is_distilled=is_distilled)
        for scale in (1.0, 4.0):
            job.run("indices=0", f"guidance_scale={scale}", output=f"{is_distilled}-{scale}")
            seen[is_distilled, scale] = (
                job.root / f"{is_distilled}-{scale}/toy/planner/klein/0/img_0.png"
            ).read_bytes()
    assert seen[True, 1.0] == seen[True, 4.0] == seen[False, 1.0] != seen[False, 4.0]


def test_an_image_that_is_not_finite_is_never_published(job: Job, tmp_path: Path) -> None:
    broken = tmp_path / "broken" / "flux2-klein-4B"
    pipeline = Flux2KleinPipeline.from_pretrained(job.checkpoint)
    with torch.no_grad():
        pipeline.vae.decoder.conv_out.bias.fill_(float("nan"))
    pipeline.save_pretrained(broken)
    job.checkpoint = broken
    assert job.run("indices=0") == 1
    failure = json.loads(next((job.root / "out/.assay/failures").glob("*.json")).read_text())
    assert failure["error_class"] == "ArithmeticError"
    assert failure["attempts"] == 3
    assert not job.folder(0).exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["all_planning_models=true"], "give either planning_model or all_planning_models"),
        (["planning_model=null"], "give either planning_model or all_planning_models"),
        (["planning_model=other"], "planning_model = 'other': there is no .*; allowed: planner"),
        (["predicted_instructions_root=/nowhere"], "planning_model = 'planner': there is no /nowhere/planner"),
        (["flux_ckpt=checkpoints/none"], "flux_ckpt = 'checkpoints/none': no such folder, and it cannot be had"),
        (["num_inference_steps=0"], "num_inference_steps = 0: .*greater than or equal to 1"),
        (["num_inference_step=4"], "unknown field num_inference_step .did you mean num_inference_steps"),
        (["height=65"], "height = 65; allowed: multiples of 4"),
        (["dtype=int8"], "dtype = 'int8'"),
        (["shard=3/3"], "shard = '3/3'; allowed: i/n with 0 <= i < n"),
        (["indices=0-9"], "'0-9' is out of range; there are 5 items"),
        (["num_gpus=-2"], "num_gpus = -2: .*greater than or equal to -1"),
        (["output_root=/proc/nothing"], "cannot write to the output folder /proc/nothing"),
    ],
)
def test_wrong_settings_are_refused_by_name(job: Job, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        job.run(*overrides)


def test_an_incomplete_checkpoint_is_refused(job: Job, tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    shutil.copy(job.checkpoint / "model_index.json", tmp_path / "half")
    job.checkpoint = tmp_path / "half"
    with pytest.raises(ConfigError, match="half' cannot be loaded"):
        job.run()


def test_a_smaller_run_forgets_nothing(job: Job) -> None:
    job.run()
    whole = job.tree()
    assert job.run("max_samples=2") == 0
    assert job.tree() == whole


def test_auto_is_the_precision_that_it_stands_for(job: Job) -> None:
    """On this machine without GPUs; a run on one would be bfloat16, other images, and so made again."""
    job.run("indices=0")
    entry = json.loads((job.folder(0) / ".unit.json").read_text())
    assert entry["inputs"]["dtype"] == ("bfloat16" if torch.cuda.is_available() else "float32")


def test_a_checkpoint_given_as_this_folder_has_a_name(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(job.checkpoint)
    assert job.run("flux_ckpt=.", "indices=0") == 0
    assert (job.folder(0) / "img_0.png").exists()


def test_a_checkpoint_of_another_class_is_refused(job: Job) -> None:
    job.checkpoint = Path(__file__).parents[2] / "miniature/weights/sd3"
    with pytest.raises(ConfigError, match="holds a StableDiffusion3Pipeline; allowed: a Flux2KleinPipeline"):
        job.run()
