"""Many processes give the numbers of one, whole or sharded; so do gradient checkpointing and compiling.

Two gloo processes on the CPU; FSDP2 is switched on by the variables that `accelerate launch` sets. Sums over processes
are rounded in another order, and Adam's first steps divide gradients by themselves: adapters are compared to 2e-5, a
hundredth of a step of the optimizer.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from PIL import Image
from redness import Redness
from safetensors.torch import load_file
from whole_runs import FSDP2, ROOT, finish_run, logged_metrics, start_run, write_config

from assay.errors import ConfigError
from assay.testing import serve_in_background
from generators.sd3 import SD3Generator
from trainer.layout import fsdp_settings, precision_of_accelerate

TOLERANCE = 2e-5
#: A compiled model's velocities are rounded otherwise, each of them.
COMPILED_TOLERANCE = 2e-4

ALGORITHMS = {
    "flow_grpo": {"name": "flow_grpo", "optimizer_steps_per_epoch": 2, "kl_weight": 0.04},
    "nft": {"name": "nft", "optimizer_steps_per_epoch": 2, "noise_draws": 2, "old_decay_rate": 0.2},
    "dpo": {"name": "dpo", "optimizer_steps_per_epoch": 2, "noise_draws": 2, "micro_batch_pairs": 1},
    "sft": {"name": "sft", "optimizer_steps_per_epoch": 3, "images_per_step": 4, "micro_batch_size": 1},
}

Train = Callable[..., Path]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serve_in_background([Redness()]) as running:
        yield running.target


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of one colour each, with what it is."""
    folder = tmp_path_factory.mktemp("captioned")
    for name in ("red", "green", "blue", "yellow", "white", "black"):
        Image.new("RGB", (64, 64), name).save(folder / f"{name}.png")
    lines = [json.dumps({"image": path.name, "prompt": path.stem}) for path in sorted(folder.glob("*.png"))]
    (folder / "data.jsonl").write_text("\n".join(lines))
    return folder / "data.jsonl"


@pytest.fixture(scope="module")
def configured(tiny_model: Path, server: str, captioned: Path) -> Callable[..., Path]:
    """Writes a configuration with what is awkward to share: a rank and a number of held-out images that are odd."""

    def configure(folder: Path, algorithm: str, **changes: object) -> Path:
        settings = {**ALGORITHMS[algorithm]} | ({"data": str(captioned)} if algorithm == "sft" else {})
        small = {"algorithm": settings, "run__epochs": 2, "model__lora_rank": 3}
        small |= {"evaluation__num_images": 3, "evaluation__batch_size": 1}
        return write_config(folder, tiny_model, server, **small | changes)

    return configure


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, configured: Callable[..., Path]) -> Callable[[str], Path]:
    """The folder of an algorithm's run on one process; each is run once."""
    folders: dict[str, Path] = {}

    def run(algorithm: str) -> Path:
        if algorithm not in folders:
            folders[algorithm] = tmp_path_factory.mktemp(algorithm)
            finish_run(configured(folders[algorithm], algorithm))
        return folders[algorithm]

    return run


def _assert_same_numbers(one: Path, other: Path, tolerance: float = TOLERANCE, off_policy: bool = False) -> None:
    """Metrics of every epoch, every tensor of the last checkpoint, and the saved LoRA."""
    for mine, theirs in zip(logged_metrics(one), logged_metrics(other), strict=True):
        assert mine.keys() == theirs.keys()
        # Compiled, sampling (without gradients) and training may be two programs that round differently.
        assert off_policy or theirs.get("first_ratio_deviation", 0) <= (1e-6 if tolerance > TOLERANCE else 0)
        assert theirs["global_step"] == mine["global_step"] > 0
        assert theirs["grad_norm"] == pytest.approx(mine["grad_norm"], rel=1e-3)  # a mean over all samples
        assert theirs.get("reward_mean", 0) == pytest.approx(mine.get("reward_mean", 0), abs=1e-4)
        assert theirs.get("kl", 0) == pytest.approx(mine.get("kl", 0), rel=0.01, abs=1e-9)
    folders = [sorted((run / "run/checkpoints").glob("epoch-*"))[-1] for run in (one, other)]
    for file in (*sorted(folders[0].glob("*.safetensors")), folders[0] / "lora/pytorch_lora_weights.safetensors"):
        mine, theirs = (load_file(folder / file.relative_to(folders[0])) for folder in folders)
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            torch.testing.assert_close(theirs[name], value, atol=tolerance, rtol=0)


def _assert_same_evaluation(one: Path, other: Path) -> None:
    mine, theirs = (json.loads((run / "run/results.json").read_text())["after"] for run in (one, other))
    assert mine["images"] == theirs["images"] == 3
    assert theirs["reward"] == pytest.approx(mine["reward"], abs=1e-4)


def _moved(folder: Path) -> float:
    """How far the trained half of a LoRA, which starts at 0, has come."""
    adapter = load_file(sorted((folder / "run/checkpoints").glob("epoch-*"))[-1] / "adapter.safetensors")
    return max(value.abs().max().item() for name, value in adapter.items() if "lora_B" in name)


@pytest.mark.parametrize(
    ("algorithm", "environment"),
    [
        pytest.param("flow_grpo", {}, id="flow_grpo-whole"),
        pytest.param("flow_grpo", FSDP2, id="flow_grpo-fsdp2", marks=pytest.mark.slow),
        pytest.param("nft", FSDP2, id="nft-fsdp2"),  # with an older policy and a reference put in place
        pytest.param("nft", {}, id="nft-whole", marks=pytest.mark.slow),
        pytest.param("dpo", {}, id="dpo-whole", marks=pytest.mark.slow),
        pytest.param("dpo", FSDP2, id="dpo-fsdp2", marks=pytest.mark.slow),
        pytest.param("sft", {}, id="sft-whole", marks=pytest.mark.slow),
        pytest.param("sft", FSDP2, id="sft-fsdp2", marks=pytest.mark.slow),
    ],
)
def test_two_processes_give_the_numbers_of_one(
    algorithm: str,
    environment: dict[str, str],
    tmp_path: Path,
    configured: Callable[..., Path],
    alone: Callable[[str], Path],
) -> None:
    one = alone(algorithm)
    assert "on 2 processes, each" in finish_run(configured(tmp_path, algorithm), 2, environment)
    _assert_same_numbers(one, tmp_path)
    _assert_same_evaluation(one, tmp_path)
    assert _moved(one) > 50 * TOLERANCE  # so that the tolerance says something


@pytest.mark.slow
@pytest.mark.parametrize("std", ["group", "global"])
def test_two_processes_that_lose_a_group_and_sample_ahead_give_the_numbers_of_one(
    std: str, tmp_path: Path, configured: Callable[..., Path]
) -> None:
    """The group lies on one of them; what it has left to train on is weighed as one process would."""
    with serve_in_background([Redness(unknown=("apple", "kite"))]) as running:
        reward = {"name": "red", "scorer": "redness", "targets": [running.target], "on_failure": "drop_group"}
        changes = {"advantages__std": std, "sampling__one_step_off_policy": True, "rewards": [reward]}
        for name, processes in (("one", 1), ("two", 2)):
            finish_run(configured(tmp_path / name, "flow_grpo", run__epochs=3, **changes), processes)
    dropped = [line["groups_dropped"] for line in logged_metrics(tmp_path / "two")]
    assert dropped == [line["groups_dropped"] for line in logged_metrics(tmp_path / "one")]
    assert 0 < sum(dropped) < 3 * 4
    _assert_same_numbers(tmp_path / "one", tmp_path / "two", off_policy=True)
    assert _moved(tmp_path / "one") > 50 * TOLERANCE


@pytest.mark.slow
def test_a_sharded_run_that_is_killed_goes_on_to_the_same_bits_on_as_many_and_to_the_same_numbers_on_fewer(
    tmp_path: Path, configured: Callable[..., Path]
) -> None:
    straight, killed, fewer = (tmp_path / name for name in ("straight", "killed", "fewer"))
    finish_run(configured(straight, "nft", run__epochs=3), 2, FSDP2)
    for folder, processes, environment in ((killed, 2, FSDP2), (fewer, 1, {})):
        config = configured(folder, "nft", run__epochs=3)
        process = start_run(config, 2, FSDP2)
        deadline = time.monotonic() + 200
        while not (folder / "run/checkpoints/epoch-000001").exists():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        _kill_all(process.pid)
        process.wait()
        assert "resuming after" in finish_run(config, processes, environment)
    assert logged_metrics(killed) == logged_metrics(straight)
    _assert_same_numbers(straight, killed, tolerance=0)
    _assert_same_numbers(straight, fewer)


def _kill_all(launcher: int) -> None:
    """Kill -9 a launcher's processes, and then itself, so that it can start none of them again."""
    os.kill(launcher, signal.SIGSTOP)
    for process in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        os.kill(int(process), signal.SIGKILL)
    os.kill(launcher, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("field", "environment", "tolerance"),
    [
        ("gradient_checkpointing", FSDP2, TOLERANCE),
        ("compile", {}, COMPILED_TOLERANCE),
        ("compile", FSDP2, COMPILED_TOLERANCE),
    ],
)
def test_fields_of_the_model_change_no_numbers(
    field: str,
    environment: dict[str, str],
    tolerance: float,
    tmp_path: Path,
    configured: Callable[..., Path],
    alone: Callable[[str], Path],
) -> None:
    """Without held-out images, whose batches would each have to be compiled for."""
    config = configured(tmp_path, "flow_grpo", **{f"model__{field}": True}, evaluation=None)
    finish_run(config, 2 if environment else 1, environment)
    _assert_same_numbers(alone("flow_grpo"), tmp_path, tolerance)


@pytest.mark.slow
def test_a_frozen_base_in_half_precision_is_sharded_with_an_adapter_in_full(
    tmp_path: Path, configured: Callable[..., Path]
) -> None:
    half = {"model__weights_dtype": "bfloat16", "run__mixed_precision": "bf16"}
    for name, processes, environment in (("one", 1, {}), ("sharded", 2, FSDP2)):
        finish_run(configured(tmp_path / name, "nft", **half), processes, environment)
    _assert_same_numbers(tmp_path / "one", tmp_path / "sharded")
    adapter = load_file(tmp_path / "sharded/run/checkpoints/epoch-000002/adapter.safetensors")
    assert {value.dtype for value in adapter.values()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_deepspeed_zero_two_gives_the_numbers_of_one_process_through_a_resume(
    tmp_path: Path, configured: Callable[..., Path], alone: Callable[[str], Path]
) -> None:
    """Where DeepSpeed is installed; it compiles a part of itself first, which takes minutes."""
    pytest.importorskip("deepspeed")
    program = [str(Path(__file__).with_name("zero_on_cpus.py"))]
    here = {"PYTHONPATH": str(ROOT)}
    finish_run(configured(tmp_path, "nft", run__epochs=1), 2, here, program)
    assert "resuming after 1 epochs" in finish_run(configured(tmp_path, "nft"), 2, here, program)
    _assert_same_numbers(alone("nft"), tmp_path)


def test_gradient_checkpointing_computes_blocks_again_to_the_same_gradients(tiny_model: Path) -> None:
    (plain, once), (checkpointed, twice) = (_gradients(tiny_model, checkpointing) for checkpointing in (False, True))
    assert (once, twice) == (1, 2)
    assert max(gradient.abs().max().item() for gradient in plain) > 0
    assert all(torch.equal(one, other) for one, other in zip(plain, checkpointed, strict=True))


def _gradients(model: Path, checkpointing: bool) -> tuple[list[torch.Tensor], int]:
    """Of a LoRA's parameters, and how often the first block was computed for them."""
    torch.manual_seed(0)
    generator = SD3Generator.from_pretrained(str(model), height=64, width=64, max_sequence_length=0)
    parameters = generator.add_lora(2, 4)
    if checkpointing:
        generator.enable_gradient_checkpointing()
    calls: list[int] = []
    generator.transformer.transformer_blocks[0].attn.register_forward_hook(lambda *_: calls.append(1))
    latents = torch.randn(2, *generator.latent_shape, generator=torch.Generator().manual_seed(1))
    prompts = generator.encode_prompts(["a cup", "two cats"])
    generator.predict_velocity(latents, torch.tensor([0.9, 0.3]), prompts).square().mean().backward()
    return [parameter.grad for parameter in parameters if parameter.grad is not None], len(calls)


CONFIGS = sorted((ROOT / "configs/accelerate").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_reads_our_configurations(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own launcher, up to where it would start processes."""
    arguments = launch_command_parser().parse_args(["--config_file", str(path), "-m", "assay.cli", "train", "x.yaml"])
    arguments, _, _ = _validate_launch_command(arguments)
    assert arguments.num_processes == {"one": 1, "eight": 8, "many": 32}[path.stem.split("_")[0]]
    assert arguments.num_machines == (4 if path.stem.startswith("many") else 1)
    assert arguments.mixed_precision == "no"  # the run's own field
    assert bool(arguments.use_fsdp) == path.stem.endswith("fsdp2")
    assert bool(arguments.use_deepspeed) == path.stem.endswith(("zero2", "zero3"))
    if arguments.use_fsdp:
        for name, value in prepare_multi_gpu_env(arguments).items():
            monkeypatch.setenv(name, value)
        assert fsdp_settings().fsdp_version == 2
        shards = 8 if arguments.use_parallelism_config else 1
        assert int(os.environ.get("PARALLELISM_CONFIG_DP_SHARD_SIZE", "1")) == shards
    if arguments.use_deepspeed:
        assert arguments.zero_stage == int(path.stem[-1])
        assert arguments.offload_optimizer_device == "none"


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("FSDP_VERSION=1", "accelerate's fsdp_version is 1; allowed: 2"),
        ("FSDP_RESHARD_AFTER_FORWARD=false", "accelerate's fsdp_reshard_after_forward is False; allowed: True"),
        ("FSDP_OFFLOAD_PARAMS=true", "accelerate's fsdp_offload_params is True; allowed: False"),
        ("FSDP_ACTIVATION_CHECKPOINTING=true", "model.gradient_checkpointing does that"),
    ],
)
def test_what_fsdp_does_not_do_here_is_refused(variable: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for assignment in ("ACCELERATE_USE_FSDP=true", "FSDP_VERSION=2", variable):
        monkeypatch.setenv(*assignment.split("="))
    with pytest.raises(ConfigError, match=message):
        fsdp_settings()


def test_deepspeed_leaves_precision_to_autocast_and_has_no_loss_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    assert precision_of_accelerate("fp16") == "fp16"
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setattr("trainer.layout.is_deepspeed_available", lambda: False)
    with pytest.raises(ConfigError, match=r"pip install 'assay\[deepspeed\]'"):
        precision_of_accelerate("bf16")
    monkeypatch.setattr("trainer.layout.is_deepspeed_available", lambda: True)
    assert precision_of_accelerate("bf16") == "no"
    with pytest.raises(ConfigError, match="fp16; allowed with DeepSpeed: no, bf16"):
        precision_of_accelerate("fp16")
