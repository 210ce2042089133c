"""The spatial judge as a reward: whole short runs of the shipped configurations, on the miniature, real services."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from accelerate import Accelerator
from safetensors.torch import load_file

sys.path.append(str(Path(__file__).parents[1]))
from served_relation import relation_scorer, save_judge

from assay.client import RewardClient
from assay.config import load_config
from assay.outcomes import Failed, Scored
from assay.rewards import RewardBatch, RewardConfig
from assay.testing import serve_in_background
from services.geneval.service import build_scorers
from trainer.advantages import AdvantagesConfig
from trainer.arithmetic import arithmetic
from trainer.cli import train
from trainer.config import TrainConfig
from trainer.prompts import draw_epoch, read_prompts
from trainer.reward_table import RewardTable

ROOT = Path(__file__).parents[2]
POSITION = ROOT / "configs/train/miniature_spatial_reward.yaml"
MIXTURE = ROOT / "configs/train/miniature_spatial_and_counting.yaml"
PROMPTS = ROOT / "configs/train/prompts"
#: Four groups of four, two optimizer steps.
SMALL = {
    "sampling": {"num_steps": 3, "group_size": 4, "groups_per_epoch": 4, "micro_batch_size": 8},
    "evaluation": {"num_steps": 2, "num_images": 4, "batch_size": 4, "every_epochs": 0, "gallery_prompts": 1},
    "algorithm": {"optimizer_steps_per_epoch": 2},
    "run": {"epochs": 1, "save_every_epochs": 1, "threads": 1, "trackers": []},
}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """All three scorers of the configurations, behind one address. `relation` goes by its model, which differs from
    picture to picture: of a handful of pictures the detector may find none right."""
    relation = relation_scorer(save_judge(tmp_path_factory.mktemp("judge")), value="vlm")
    geneval = yaml.safe_load((ROOT / "configs/services/geneval.yaml").read_text())["scorer"]
    with serve_in_background([relation, *build_scorers(geneval)]) as server:
        yield server.target


def _run(folder: Path, config: Path, target: str, prompts: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Train; the lines of its metrics, and its results before and after."""
    values = yaml.safe_load(config.read_text())
    for section, changes in SMALL.items():
        values[section] |= changes
    for reward in (*values["rewards"], *values["evaluation"]["rewards"]):
        reward["targets"] = [target]
    lines = (PROMPTS / f"{prompts}.jsonl").read_text().splitlines()
    few = [*lines[:2], *lines[-2:]]
    (folder / "few.jsonl").write_text("\n".join(few))
    values["prompts"] = {name: str(folder / "few.jsonl") for name in ("train", "test")}
    values["run"]["output"] = str(folder / "run")
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    assert train(folder / "config.yaml") == 0
    metrics = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    return metrics, json.loads((folder / "run/results.json").read_text())


def test_rewards_of_the_spatial_judge_arrive_differ_and_teach(tmp_path: Path, target: str) -> None:
    metrics, results = _run(tmp_path, POSITION, target, "miniature_position")
    assert len(metrics) == 1
    for line in metrics:
        assert 0 < line["reward/spatial"] < 1
        assert line["reward_mean"] == pytest.approx(line["reward/spatial"])
        assert line["reward_std_mean"] > 0.01
        assert line["zero_std_ratio"] < 1
        assert line["unscored"] == line["filled"] == 0
        assert line["first_ratio_deviation"] == pytest.approx(0, abs=1e-6)
    weights = load_file(tmp_path / "run/lora/pytorch_lora_weights.safetensors")
    learnt = [weight for name, weight in weights.items() if "lora_B" in name or "lora.up" in name]
    assert any(bool(weight.any()) for weight in learnt)
    for when in ("before", "after"):  # the judge that training does not see stands beside it
        assert set(results[when]["rewards"]) == {"spatial", "geneval"}
        assert results[when]["reward"] == pytest.approx(results[when]["rewards"]["spatial"])


def test_of_two_kinds_of_prompts_the_judge_is_filled_for_one_and_counts_for_the_other(
    tmp_path: Path, target: str
) -> None:
    metrics, _ = _run(tmp_path, MIXTURE, target, "miniature_position_and_counting")
    for line in metrics:
        assert line["filled"] == 8  # the two counting prompts' groups of four, no image more
        assert line["unscored"] == line["groups_dropped"] == 0
        # 16 images have counts, 8 a relation.
        total = (0.5 * 16 * line["reward/counting"] + 8 * line["reward/spatial"]) / 16
        assert line["reward_mean"] == pytest.approx(total)
        assert line["zero_std_ratio"] < 1


def test_who_refuses_what(target: str) -> None:
    """The counting scorer judges both kinds of prompts; the spatial judge refuses all of one and none of the other."""
    prompts = read_prompts(PROMPTS / "miniature_position_and_counting.jsonl")
    image = np.full((64, 64, 3), 150, np.uint8)
    with RewardClient([target]) as client:
        for scorer in ("counting", "relation"):
            outcomes = client.score(
                [image] * len(prompts),
                scorer=scorer,
                prompts=[prompt.prompt for prompt in prompts],
                tasks=[prompt.task for prompt in prompts],
            )
            for prompt, outcome in zip(prompts, outcomes, strict=True):
                if scorer == "relation" and prompt.task is not None and prompt.task.tag == "counting":
                    assert isinstance(outcome, Failed)
                    assert (outcome.code, outcome.reason) == ("INVALID_ARGUMENT", "WRONG_TASK_TYPE")
                else:
                    assert isinstance(outcome, Scored)


def test_what_is_filled_in_for_a_whole_group_changes_no_advantage() -> None:
    """And is all the same as if that group had been judged by the other reward alone."""
    config = load_config(TrainConfig, MIXTURE)
    counting, spatial = np.array([1.0, 0.0, 0.5, 1.0, 1.0, 0.0]), np.array([np.nan] * 3 + [1.0, 0.25, 0.0])
    groups, found = [0, 0, 0, 1, 1, 1], []
    for fill in (0.0, 0.7):
        rewards = [config.rewards[0], config.rewards[1].model_copy(update={"fill_value": fill})]
        totals = 0.5 * counting + np.where(np.isnan(spatial), fill, spatial)
        batch = RewardBatch(totals, np.ones(6, bool), {"counting": counting, "spatial": spatial}, fills=3)
        table = RewardTable.gather(Accelerator(cpu=True), groups, [batch], ["counting", "spatial"])
        found.append(table.own_advantages(config.advantages, rewards))
    np.testing.assert_allclose(found[0], found[1], atol=1e-12)
    alone = RewardBatch(0.5 * counting[:3], np.ones(3, bool), {"counting": counting[:3]})
    table = RewardTable.gather(Accelerator(cpu=True), groups[:3], [alone], ["counting"])
    np.testing.assert_allclose(
        table.own_advantages(AdvantagesConfig(std="group"), config.rewards[:1]), found[0][:3], atol=1e-12
    )


def test_the_mixture_fills_as_many_in_every_epoch_as_its_comment_says() -> None:
    config = load_config(TrainConfig, MIXTURE)
    amounts = arithmetic(config, 1)
    assert (amounts.groups, amounts.images, amounts.optimizer_steps) == (32, 256, 4)
    prompts = read_prompts(ROOT / config.prompts.train)
    for epoch in range(3):
        drawn = draw_epoch(prompts, epoch=epoch, num_groups=32, group_size=8, seed=config.run.seed)
        tags = [sample.prompt.task.tag for sample in drawn if sample.prompt.task]
        assert (tags.count("counting"), tags.count("position")) == (128, 128)
    assert "`filled` is 128" in MIXTURE.read_text()


def test_the_judges_prompts_are_positions_and_the_tests_are_none_of_the_trainings() -> None:
    train_prompts, test_prompts = (read_prompts(PROMPTS / f"miniature_position{part}.jsonl") for part in ("", "_test"))
    assert (len(train_prompts), len(test_prompts)) == (100, 20)
    texts = [prompt.prompt for prompt in (*train_prompts, *test_prompts)]
    assert len(set(texts)) == 6 * 5 * 4
    for prompt in (*train_prompts, *test_prompts):
        assert prompt.task is not None
        reference, placed = prompt.task.include
        assert placed.position is not None
        relation, index = placed.position
        assert (prompt.task.tag, index) == ("position", 0)
        assert f"{placed.class_name} {relation} a" in prompt.prompt
        assert prompt.prompt.endswith(f" {reference.class_name}")


@pytest.mark.parametrize("path", [POSITION, MIXTURE], ids=lambda path: path.stem)
def test_the_configurations_ask_the_services_where_they_are(path: Path) -> None:
    config = load_config(TrainConfig, path)
    ports = {"relation": "localhost:50055", "counting": "localhost:50051", "geneval": "localhost:50051"}
    assert config.evaluation is not None
    asked: list[RewardConfig] = [*config.rewards, *config.evaluation.rewards]
    assert "geneval" in {reward.scorer for reward in config.evaluation.rewards}
    assert all(reward.targets == (ports[reward.scorer],) for reward in asked)
