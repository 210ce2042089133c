"""Whole runs of DPO for Show-o: what they leave, that a killed one goes on, that two processes give one's numbers.

Sums over processes are rounded in another order: adapters are compared to 2e-5, a hundredth of a step.
"""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from redness import Redness
from safetensors.torch import load_file
from typer.testing import CliRunner
from whole_runs import FSDP2, ROOT, finish_run, logged_metrics, start_run

from assay.cli import app
from assay.config import load_config
from assay.errors import ConfigError
from assay.outcomes import Scored
from assay.serving.scorer import Sample
from assay.testing import serve_in_background
from generators.showo.pipeline import ShowoPipeline
from generators.text_to_image import load_pipeline
from miniature.datasets import write_captioned_pictures, write_pairs
from miniature.prompts import counting_metadata
from trainer.arithmetic import arithmetic
from trainer.cli import train
from trainer.config import TrainConfig
from trainer.memory_estimate import memory_estimate

OFFLINE = ROOT / "configs/train/miniature_showo_dpo.yaml"
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serve_in_background([Redness()]) as running:
        yield running.target


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_pairs(folder, 10, seed=0)
    write_captioned_pictures(folder, 6, seed=0)
    tasks = [counting_metadata(name, count) for name in ("apple", "cup") for count in (1, 2)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    return folder


@pytest.fixture
def values(tiny_showo: Path, server: str, data: Path) -> dict[str, Any]:
    return configured(tiny_showo, server, data)


def configured(model: Path, server: str, data: Path) -> dict[str, Any]:
    """The miniature's configuration, made small."""
    found: dict[str, Any] = yaml.safe_load(OFFLINE.read_text())
    found["model"] |= {"path": str(model), "lora_rank": 3, "lora_alpha": 6}
    found["prompts"] = {"test": str(data / "prompts.jsonl")}
    found["evaluation"] |= {"num_steps": 3, "num_images": 3, "batch_size": 1, "every_epochs": 1, "gallery_prompts": 2}
    found["evaluation"] |= {"accuracy": "red"}
    found["algorithm"] |= {"data": str(data / "pairs.jsonl"), "pairs_per_epoch": 8, "optimizer_steps_per_epoch": 2}
    found["algorithm"] |= {"micro_batch_pairs": 2, "mask_draws": 2}
    found["optimizer"] |= {"learning_rate": 2.0e-3}
    found["rewards"] = [{"name": "red", "scorer": "redness", "targets": [server]}]
    found["run"] |= {"epochs": 3, "save_every_epochs": 1, "threads": 1, "service_wait_s": 5}
    return found


def write(folder: Path, values: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    values["run"]["output"] = str(folder / "run")
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, tiny_showo: Path, server: str, data: Path) -> Path:
    """A run of three epochs without any trouble."""
    folder = tmp_path_factory.mktemp("straight")
    config = write(folder, configured(tiny_showo, server, data))
    output = finish_run(config)
    assert "an epoch: 16 images, from algorithm.data; 2 optimizer steps of 8 images" in output
    assert "trained under 2 masks" in output
    assert "GiB" in output
    return folder


def test_a_run_leaves_lora_table_gallery_curve_and_the_best(straight: Path, tiny_showo: Path) -> None:
    run = straight / "run"
    for name in ("table.md", "results.json", "gallery.png", "reward_curve.png", "best/best.json"):
        assert (run / name).stat().st_size > 0
    assert list((run / "assay").glob("events.out.tfevents*"))
    metrics = logged_metrics(straight)
    assert [line["global_step"] for line in metrics] == [2, 4, 6]
    assert metrics[-1]["implicit_accuracy"] > 0.5
    assert {"margin", "gain_better", "gain_worse", "grad_norm", "loss"} <= metrics[0].keys()
    summaries = [json.loads(path.read_text()) for path in sorted(run.glob("evaluations/*/summary.json"))]
    assert [summary["epoch"] for summary in summaries] == [0, 1, 2, 3]
    best = max(summaries[1:], key=lambda summary: summary["accuracy"])
    assert json.loads((run / "best/best.json").read_text())["accuracy"] == best["accuracy"]
    # what is loaded as users load it is the adapter of the last checkpoint
    adapter = load_file(run / "checkpoints/epoch-000003/adapter.safetensors")
    loaded: Any = load_pipeline(str(tiny_showo), "cpu", torch.float32, str(run))
    trained = {name: own for name, own in loaded.transformer.named_parameters() if ".lora_" in name}
    assert len(trained) == len(adapter) > 0
    assert all(torch.equal(own, adapter[name.replace(".default_0.", ".default.")]) for name, own in trained.items())


def test_a_killed_run_goes_on_to_the_same_bits(straight: Path, values: dict[str, Any], tmp_path: Path) -> None:
    config = write(tmp_path, values)
    process = start_run(config)
    deadline = time.monotonic() + 400
    while not (tmp_path / "run/checkpoints/epoch-000001").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert "resuming after" in finish_run(config)
    assert logged_metrics(tmp_path) == logged_metrics(straight)
    for file in ("adapter", "optimizer", "reference", "lora/pytorch_lora_weights"):
        mine, theirs = (
            load_file(folder / f"run/checkpoints/epoch-000003/{file}.safetensors") for folder in (tmp_path, straight)
        )
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    one, other = (json.loads((folder / "run/results.json").read_text()) for folder in (tmp_path, straight))
    assert one == other


def test_two_processes_give_the_numbers_of_one(straight: Path, values: dict[str, Any], tmp_path: Path) -> None:
    assert "on 2 processes, each" in finish_run(write(tmp_path, values), 2)
    for mine, theirs in zip(logged_metrics(straight), logged_metrics(tmp_path), strict=True):
        for name in ("loss", "margin", "implicit_accuracy", "grad_norm", "global_step"):
            assert theirs[name] == pytest.approx(mine[name], rel=1e-3, abs=1e-5), name
    for file in ("adapter", "reference"):
        mine, theirs = (
            load_file(folder / f"run/checkpoints/epoch-000003/{file}.safetensors") for folder in (straight, tmp_path)
        )
        for name, value in mine.items():
            torch.testing.assert_close(theirs[name], value, atol=TOLERANCE, rtol=0)
    adapter = load_file(straight / "run/checkpoints/epoch-000003/adapter.safetensors")
    assert max(own.abs().max().item() for name, own in adapter.items() if "lora_B" in name) > 50 * TOLERANCE


def test_a_whole_model_is_trained_and_loads_as_one(values: dict[str, Any], tmp_path: Path) -> None:
    values["model"] = {key: value for key, value in values["model"].items() if not key.startswith("lora_")}
    values["model"] |= {"train_all": True, "gradient_checkpointing": True}
    values["run"] |= {"epochs": 1, "trackers": []}
    assert train(write(tmp_path, values)) == 0
    adapter = load_file(tmp_path / "run/checkpoints/epoch-000001/adapter.safetensors")
    reference = load_file(tmp_path / "run/checkpoints/epoch-000001/reference.safetensors")
    moved = [name for name in adapter if not torch.equal(adapter[name], reference[name])]
    assert len(moved) > 0.9 * len(adapter)
    for folder in ("model", "best", "checkpoints/epoch-000001/model"):
        loaded = ShowoPipeline.from_pretrained(tmp_path / "run" / folder)
        for name, value in loaded.transformer.state_dict().items():
            assert torch.equal(value, adapter[name])
    # the next stage starts from it, and its reference is it
    values["model"]["path"] = str(tmp_path / "run/model")
    values["evaluation"], values["rewards"] = None, []
    assert train(write(tmp_path / "next", values)) == 0
    start = load_file(tmp_path / "next/run/checkpoints/epoch-000001/reference.safetensors")
    assert all(torch.equal(start[name], adapter[name]) for name in adapter)


def online(values: dict[str, Any], data: Path, **algorithm: Any) -> dict[str, Any]:
    sampling = {"num_steps": 3, "guidance_scale": 1.5, "group_size": 3, "groups_per_epoch": 2, "micro_batch_size": 3}
    algorithm = {"name": "showo_dpo", "optimizer_steps_per_epoch": 2, "micro_batch_pairs": 1, **algorithm}
    run = {**values["run"], "trackers": [], "epochs": 2}
    prompts = {"train": str(data / "prompts.jsonl")}
    return {**values, "sampling": sampling, "algorithm": algorithm, "evaluation": None, "prompts": prompts, "run": run}


def test_iterative_dpo_on_its_own_pictures_weighed_by_a_service(
    values: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    settings = {"sample_with": "reference", "reference_update_epochs": 1, "guidance": {"use": "weigh"}}
    assert train(write(tmp_path, online(values, data, **settings))) == 0
    first, second = logged_metrics(tmp_path)
    assert second["global_step"] == 4
    assert first["reward_mean"] == pytest.approx(first["reward/red"])
    assert 0 < first["pair_weight"] < 1
    folder = tmp_path / "run/checkpoints/epoch-000002"
    adapter, reference = (load_file(folder / f"{name}.safetensors") for name in ("adapter", "reference"))
    assert all(torch.equal(adapter[name], reference[name]) for name in adapter)  # it has just followed


def test_pairs_of_a_file_weighed_by_a_service_train_something_else(
    values: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    pairs = [json.loads(line) for line in (data / "pairs.jsonl").read_text().splitlines()]

    def judged(name: str) -> float:
        picture = np.asarray(Image.open(data / name).convert("RGB"))
        (outcome,) = Redness().score([Sample("", (picture,), "", None)])
        assert isinstance(outcome, Scored)
        return outcome.value

    values["algorithm"] |= {"guidance": {"use": "weigh"}, "pairs_per_epoch": 10, "micro_batch_pairs": 5}  # each once
    values["run"] |= {"epochs": 1, "trackers": []}
    values["evaluation"] = None
    values["optimizer"] |= {"warmup": 0, "schedule": "constant"}
    assert train(write(tmp_path, values)) == 0
    (line,) = logged_metrics(tmp_path)
    leads = np.array([judged(pair["chosen"]) - judged(pair["rejected"]) for pair in pairs])
    assert 0 < (leads > 0).mean() < 1
    assert line["pairs_kept"] == pytest.approx((leads > 0).mean())
    assert line["verifier_lead"] == pytest.approx(leads.mean())
    assert line["pair_weight"] == pytest.approx(leads[leads > 0].mean())
    guided = load_file(tmp_path / "run/checkpoints/epoch-000001/adapter.safetensors")
    values["algorithm"]["guidance"] = None
    assert train(write(tmp_path / "plain", values)) == 0
    plain = load_file(tmp_path / "plain/run/checkpoints/epoch-000001/adapter.safetensors")
    both = [torch.cat([own[name].flatten() for name in plain if "lora_B" in name]) for own in (guided, plain)]
    assert torch.cosine_similarity(*both, dim=0) < 0.95


def test_sharding_is_refused_by_all_processes(values: dict[str, Any], tmp_path: Path) -> None:
    values["evaluation"] = None
    process = start_run(write(tmp_path, values), 2, FSDP2)
    said = process.communicate(timeout=280)[0]
    assert process.returncode != 0
    assert "accelerate is to shard the model; allowed for Show-o: plain data parallelism" in said


def test_supervised_fine_tuning_on_captioned_pictures(values: dict[str, Any], data: Path, tmp_path: Path) -> None:
    values["algorithm"] = {"name": "showo_sft", "data": str(data / "sft.jsonl"), "images_per_step": 6}
    values["algorithm"] |= {"micro_batch_size": 3, "optimizer_steps_per_epoch": 6, "mask_draws": 2}
    values["optimizer"] = {"learning_rate": 1e-2}
    values["evaluation"] = None
    values["run"] |= {"epochs": 2, "trackers": []}
    assert train(write(tmp_path, values)) == 0
    first, second = logged_metrics(tmp_path)
    assert second["cross_entropy"] < first["cross_entropy"] - 0.05


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["algorithm.beta=0"], r"algorithm.beta = 0: .*greater than 0"),
        (["algorithm.mask_schedule=cosin"], r"mask_schedule = 'cosin': .*allowed: cosine, linear, sigmoid, and powK"),
        (["algorithm.compat.count_marks=true"], r"compat.count_marks needs whole_vocabulary"),
        (["algorithm.guidance={}", "rewards=[]", "evaluation=null"], r"algorithm.guidance needs rewards: the verifier"),
        (["algorithm.guidance.use=reweigh"], r"guidance.use = 'reweigh': .*'select' or 'weigh'"),
        (["algorithm.sample_with=policy"], r"would do nothing.*algorithm.sample_with with algorithm.data"),
        (["model.compile=true"], r"would do nothing.*model.compile with algorithm showo_dpo"),
        (
            ["model.train_all=true"],
            r"would do nothing.*lora_alpha with model.train_all; model.lora_rank with model.tra",
        ),
        (["algorithm.data=null"], r"showo_dpo learns from rollouts: sampling, prompts.train missing"),
        (
            ["evaluation={num_steps: 3}"],
            r"evaluation.guidance_scale is missing; Show-o counts it from 0: 1.75 is usual",
        ),
        (["optimizer.schedule=linear"], r"optimizer.schedule = 'linear': .*'constant' or 'cosine'"),
        (["optimizer.warmup=1"], r"optimizer.warmup = 1: .*less than 1"),
        (
            ["algorithm={name: dpo, data: x.jsonl}", "evaluation.guidance_scale=0.5"],
            r"allowed with algorithm dpo: at l",
        ),
        (["algorithm={name: dpo, data: x.jsonl}", "model.train_all=true"], r"allowed with showo_dpo, showo_sft"),
    ],
)
def test_wrong_and_idle_fields_are_named(changes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(TrainConfig, OFFLINE, changes)


def test_the_verb_takes_preferences_alone() -> None:
    result = CliRunner().invoke(app, ["train", "dpo", str(OFFLINE.with_name("miniature_sft.yaml"))])
    assert isinstance(result.exception, ConfigError)
    assert "algorithm.name = 'sft'; allowed with `assay train dpo`: dpo, showo_dpo" in str(result.exception)
    result = CliRunner().invoke(app, ["train", "dpo", "algorithm.beta=0"])
    assert "miniature_showo_dpo.yaml: algorithm.beta = 0" in str(result.exception)


def test_pairs_that_cannot_be_shared_are_refused_with_the_nearest_number() -> None:
    config = load_config(TrainConfig, OFFLINE, ["algorithm.pairs_per_epoch=100"])
    with pytest.raises(ConfigError, match=r"pairs_per_epoch is 100; with 2 processes and 6 .* of 12: 96 or 108"):
        arithmetic(config, 2)


def test_arithmetic_and_memory_by_hand(tiny_masked: Any) -> None:
    config = load_config(TrainConfig, OFFLINE, ["algorithm.guidance.use=select"])
    found = arithmetic(config, 2)
    assert (found.groups, found.images, found.optimizer_steps, found.micro_batches) == (96, 192, 6, 6)
    assert found.training_passes == 4
    assert found.reward_calls == 12  # 2 processes, 6 steps, the 16 images of 8 pairs in one call
    memory = memory_estimate(config, tiny_masked, 2)
    assert memory.activations == 2 * 16 * 4 * 81 * 32 * 2 * 34 * 2
    assert memory.rollouts == 0
    online = load_config(TrainConfig, OFFLINE.with_name("miniature_showo_dpo_online.yaml"))
    assert arithmetic(online, 1).sampling_passes == 24
    assert online.sampling is not None
    images = online.sampling.groups_per_epoch * online.sampling.group_size
    assert memory_estimate(online, tiny_masked, 1).rollouts == images * 8 * (64 + 17)
    without = load_config(
        TrainConfig, OFFLINE.with_name("miniature_showo_dpo_online.yaml"), ["sampling.guidance_scale=0"]
    )
    assert arithmetic(without, 1).sampling_passes == 12


def test_a_run_with_a_schedule_cannot_be_made_longer(straight: Path, values: dict[str, Any]) -> None:
    """Its learning rates would have been others."""
    with pytest.raises(ConfigError, match=r"holds a run with run.epochs = 3, not 5"):
        train(write(straight, values), ["run.epochs=5"])
