"""Every shipped configuration is valid, and a wrong one is refused with the field, the value and what is allowed."""

import re
from pathlib import Path

import pytest

from assay.config import load_config
from assay.errors import ConfigError
from trainer.algorithms.flow_grpo import FlowGrpoConfig, trained_steps
from trainer.arithmetic import Arithmetic, arithmetic, unmoved_average
from trainer.config import TrainConfig

ROOT = Path(__file__).parents[2]
#: Processes of the files in configs/accelerate that training configurations name at their heads.
ACCELERATE_PROCESSES = {"one_gpu": 1, "eight_gpus_ddp": 8, "eight_gpus_fsdp2": 8}
MINIATURE = ROOT / "configs/train/miniature_counting.yaml"


#: Those of judges are tested in tests/trainer/vlm.
OTHERS = ("_orm", "_parm", "_spatial")
CONFIGS = [path for path in sorted((ROOT / "configs/train").glob("*.yaml")) if not path.stem.endswith(OTHERS)]
#: (processes of the command at the file's head, groups, images, optimizer steps, micro-batches of a process, passes to
#: sample, passes to train, reward calls), worked out by hand from the file's numbers.
AMOUNTS = {
    "flux1_dev_counting_fast": (8, 48, 1152, 2, 48, 6, 3, 384),
    "flux2_klein_base_counting_nft": (8, 48, 768, 1, 24, 16, 10, 192),
    "miniature_counting": (1, 16, 256, 4, 16, 8, 4, 16),
    "miniature_cps": (1, 16, 256, 4, 16, 8, 2, 16),
    "miniature_dpo": (1, 32, 256, 4, 16, 8, 8, 16),
    "miniature_dpo_offline": (1, 96, 192, 6, 6, 0, 2, 0),
    "miniature_fast": (1, 16, 256, 4, 16, 8, 2, 16),
    "miniature_flux_fast": (1, 16, 256, 4, 16, 8, 2, 16),
    "miniature_guard": (1, 16, 256, 4, 16, 8, 2, 16),
    "miniature_klein_editing": (1, 16, 256, 4, 16, 8, 2, 16),
    "miniature_nft": (1, 16, 256, 4, 16, 8, 2, 16),
    "miniature_reference": (1, 16, 256, 2, 16, 16, 7, 16),
    "miniature_rwr": (1, 16, 256, 4, 16, 8, 2, 16),
    "miniature_sft": (1, 0, 800, 25, 25, 0, 1, 0),
    "miniature_showo_dpo": (1, 96, 192, 6, 6, 0, 4, 0),
    "miniature_showo_dpo_online": (1, 24, 192, 2, 6, 24, 4, 12),  # a micro-batch of 32 goes out in two calls
    "miniature_showo_sft": (1, 0, 1600, 50, 50, 0, 1, 0),
    "miniature_showo_spatial_dpo": (1, 96, 192, 6, 6, 0, 4, 0),
    "miniature_spatial_and_counting": (1, 32, 256, 4, 16, 8, 4, 32),  # two scorers
    "miniature_spatial_reward": (1, 16, 256, 4, 16, 8, 4, 16),
    "sd35l_counting_fast": (8, 48, 1152, 2, 24, 10, 3, 192),
    "sd35m_counting": (4, 48, 576, 2, 24, 40, 10, 96),
    "sd35m_counting_dpo": (8, 32, 768, 1, 8, 80, 39, 64),
    "sd35m_counting_fast": (8, 48, 1152, 2, 16, 10, 3, 128),
    "sd35m_counting_guard": (8, 48, 1152, 2, 18, 20, 9, 144),
    "sd35m_counting_nft": (8, 48, 1152, 1, 12, 10, 10, 96),
    "sd35m_sft": (1, 0, 3200, 100, 400, 0, 1, 0),
    "showo_dpo": (8, 2000, 4000, 125, 125, 0, 2, 0),
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_are_valid_and_amount_to_what_they_should(path: Path) -> None:
    config = load_config(TrainConfig, path)
    launched = re.search(r"configs/accelerate/(\w+)\.yaml|--num_processes (\d+)", path.read_text())
    processes = 1 if launched is None else int(launched[2] or ACCELERATE_PROCESSES[launched[1]])
    amounts = arithmetic(config, processes, second_branch=not path.stem.startswith(("flux1", "miniature_flux")))
    assert AMOUNTS[path.stem] == (
        amounts.processes,
        amounts.groups,
        amounts.images,
        amounts.optimizer_steps,
        amounts.micro_batches,
        amounts.sampling_passes,
        amounts.training_passes,
        amounts.reward_calls,
    )
    made = ("runs/data", "data")  # by the command at the file's head, or by the user
    for prompts in (config.prompts.train, config.prompts.test):
        assert prompts is None or str(prompts).startswith(made) or (ROOT / prompts).is_file()


def test_sd35m_counting_has_the_forks_arithmetic() -> None:
    config = load_config(TrainConfig, ROOT / "configs/train/sd35m_counting.yaml")
    found = arithmetic(config, 4)
    assert (found.groups, found.images, found.optimizer_steps, found.micro_batches) == (48, 576, 2, 24)
    assert (found.sampling_passes, found.training_passes) == (40, 10)
    assert found.reward_calls == 96  # one of each micro-batch of six
    assert isinstance(config.algorithm, FlowGrpoConfig)
    assert trained_steps(config.algorithm, 20, [0]).tolist() == [list(range(10))]


@pytest.mark.parametrize(
    ("overrides", "processes", "message"),
    [
        ([], 7, r"sampling.groups_per_epoch is 48; with 7 processes and 2 .* multiple of 14: 42 or 56"),
        (["sampling.groups_per_epoch=3"], 2, r"must be a multiple of 4: 4$"),
    ],
)
def test_impossible_numbers_are_refused_with_the_nearest_possible(
    overrides: list[str], processes: int, message: str
) -> None:
    config = load_config(TrainConfig, ROOT / "configs/train/sd35m_counting.yaml", overrides)
    with pytest.raises(ConfigError, match=message):
        arithmetic(config, processes)


def test_arithmetic_by_hand() -> None:
    """12 groups of 5 on 2 processes in 3 steps: a process has 2 groups a step, 10 images, as 4 + 4 + 2."""
    changes = ["sampling.groups_per_epoch=12", "sampling.group_size=5", "sampling.micro_batch_size=4"]
    changes += ["algorithm.optimizer_steps_per_epoch=3", "sampling.guidance_scale=2"]
    found = arithmetic(load_config(TrainConfig, MINIATURE, changes), 2)
    assert found == Arithmetic(
        processes=2,
        groups=12,
        images=60,
        optimizer_steps=3,
        micro_batches=9,
        sampling_passes=16,
        training_passes=4,
        reward_calls=18,
    )
    text = str(found)
    assert "60 images, 12 groups of 5; 3 optimizer steps of 20 images" in text
    assert "2 processes, each 9 micro-batches" in text


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["ema={}"], "move every 8 optimizer steps, and the run has 4: "),
        (["ema={}", "run.epochs=2"], None),  # eight steps: it moves once
        (["ema={enabled: false}"], None),
        ([], None),  # every step
    ],
)
def test_who_saves_an_average_that_never_moves_is_told(overrides: list[str], said: str | None) -> None:
    found = unmoved_average(load_config(TrainConfig, MINIATURE, ["run.epochs=1", *overrides]))
    assert found is None if said is None else said in str(found)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sampling.guidance=3", r"unknown field sampling.guidance .*guidance_scale"),
        ("algorithm.clip_range=0", r"algorithm.clip_range = 0: .*greater than 0"),
        ("algorithm.timestep_strategy=last", r"algorithm.timestep_strategy = 'last': .*'first' or 'random'"),
        ("algorithm.clip_rage=1", r"unknown field algorithm.clip_rage \(did you mean clip_range"),
        ("algorithm.name=ppo", r"algorithm = .*'flow_grpo', 'grpo_guard', 'nft', 'dpo', 'rwr', 'sft'"),
        ("algorithm={}", r"algorithm.name is missing"),
        ("algorithm.window={last: 7}", r"algorithm.window.last is 7; at most 6 with 8 steps"),
        ("algorithm.window={size: 4, first: 2, last: 4}", r"algorithm.window.size is 4; at most 3 between steps 2 and"),
        ("algorithm={name: sft}", r"algorithm.data is missing"),
        ("algorithm={name: grpo_guard, clip_range: -1}", r"algorithm.clip_range = -1: .*greater than 0"),
        ("algorithm={name: nft}", r"sampling.noise_level with algorithm nft"),
        ("evaluation.patience=3", r"evaluation.patience with evaluation.every_epochs = 0"),
        ("algorithm.window={last: 4}", r"algorithm.timestep_fraction with algorithm.window"),
        ("model.weights_dtype=bfloat16", r"run.mixed_precision = fp16; allowed with .*bfloat16: no, bf16"),
        ("sampling={sde_type: cps, noise_level: 1.5}", r"sampling.noise_level is 1.5; at most 1 with sde_type: cps"),
        ("rewards=[]", r"algorithm flow_grpo learns from rollouts: rewards missing"),
        ("advantages={strict_reward: true}", r"strict_reward .* needs one reward of weight 1"),
        ("rewards.0.on_failure=zero", r"on_failure = 'zero': .*'raise', 'drop_group' or 'fill'"),
    ],
)
def test_wrong_fields_are_named(override: str, message: str) -> None:
    others = {
        "strict": ["rewards.0.weight=2"],
        "nft": ["sampling.noise_level=0.5"],
        "bfloat16": ["run.mixed_precision=fp16"],
    }
    more = [setting for word, settings in others.items() if word in override for setting in settings]
    with pytest.raises(ConfigError, match=message):
        load_config(TrainConfig, MINIATURE, [override, *more])


def test_no_mixed_precision_needs_no_quotes_in_yaml() -> None:
    config = load_config(TrainConfig, MINIATURE, ["run.mixed_precision=no"])
    assert config.run.mixed_precision == "no"
    with pytest.raises(ConfigError, match=r"run.mixed_precision = True: .*'no', 'fp16' or 'bf16'"):
        load_config(TrainConfig, MINIATURE, ["run.mixed_precision=yes"])
