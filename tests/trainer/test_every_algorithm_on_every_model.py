"""Every algorithm trains every miniature model for two optimizer steps, through the command, against a real service."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from redness import Redness
from safetensors.torch import load_file

from assay.testing import serve_in_background
from miniature.datasets import write_captioned_pictures, write_pairs
from miniature.prompts import counting_metadata
from trainer.cli import train

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "miniature" / "weights"

#: model -> (settings of `model`, guidance scale, whether prompts come with a reference picture)
MODELS: dict[str, tuple[dict[str, Any], float, bool]] = {
    "sd3": ({"path": "sd3", "max_sequence_length": 0}, 2.0, False),
    "flux": ({"path": "flux", "max_sequence_length": 16}, 2.0, False),
    "flux2_klein_base": ({"path": "flux2_klein_base", "max_sequence_length": 24}, 2.0, False),
    "flux2_klein_base-references": ({"path": "flux2_klein_base", "max_sequence_length": 24}, 2.0, True),
}
FAST = {"window": {"size": 2, "last": 2}, "kl_weight": 0}
#: name -> (settings of `algorithm`, of `sampling`)
ALGORITHMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "flow_grpo": ({"name": "flow_grpo"}, {}),
    "fast": ({"name": "flow_grpo", **FAST}, {}),
    "cps": ({"name": "flow_grpo", **FAST}, {"sde_type": "cps", "noise_level": 0.8}),
    "grpo_guard": ({"name": "grpo_guard"}, {}),
    "nft": ({"name": "nft", "noise_draws": 2}, {"guidance_scale": 1.0}),
    "dpo-online": ({"name": "dpo", "noise_draws": 2}, {}),
    "dpo-iterative": ({"name": "dpo", "noise_draws": 2, "sample_with": "reference", "reference_update_epochs": 1}, {}),
    "dpo-offline": ({"name": "dpo", "noise_draws": 2, "data": "pairs", "pairs_per_epoch": 4}, {}),
    "sft": ({"name": "sft", "data": "sft", "images_per_step": 4, "micro_batch_size": 4}, {}),
    "rwr": ({"name": "rwr", "noise_draws": 2}, {}),
}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serve_in_background([Redness()]) as running:
        yield running.target


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures, pairs and prompts, and the same with a reference picture each."""
    folder = tmp_path_factory.mktemp("data")
    write_captioned_pictures(folder, 6, seed=0)
    write_pairs(folder, 5, seed=0)
    tasks = [counting_metadata(name, count) for name in ("apple", "cup") for count in (1, 2)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    rng = np.random.default_rng(0)
    for index in range(6):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"reference{index}.png")
    for name in ("prompts", "sft", "pairs"):
        lines = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        edits = [{**line, "references": [f"reference{index}.png"]} for index, line in enumerate(lines)]
        (folder / f"{name}-references.jsonl").write_text("".join(json.dumps(line) + "\n" for line in edits))
    return folder


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("model", MODELS)
def test_two_steps(model: str, algorithm: str, data: Path, server: str, tmp_path: Path) -> None:
    config = _config(model, algorithm, data, server, tmp_path / "run")
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    assert train(path) == 0
    (line,) = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert line["global_step"] == 2
    assert line["loss"] is not None
    if "first_ratio_deviation" in line:
        assert line["first_ratio_deviation"] == 0
    trained = load_file(tmp_path / "run/lora/pytorch_lora_weights.safetensors")
    moved = [bool(values.any()) for name, values in trained.items() if "lora_B" in name]  # they start at 0
    assert sum(moved) >= 0.8 * len(moved)  # the text stream's end in the last block feeds nothing


def test_an_editing_model_learns_edits_from_a_file(data: Path, server: str, tmp_path: Path) -> None:
    """What is kept of each prompt has its reference, dropped prompts too; of all others, only guidance's has none."""
    config = _config("flux2_klein_base-references", "sft", data, server, tmp_path / "run")
    config["model"]["embeddings_cache"] = str(tmp_path / "embeddings")
    config["algorithm"] |= {"prompt_dropout": 0.5}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    assert train(path) == 0
    kept = [load_file(file) for file in (tmp_path / "embeddings").iterdir()]
    pictures = [embeddings["references"] for embeddings in kept if "references" in embeddings]
    assert len(kept) == 2 * 6 + 1
    assert len(pictures) == 2 * 6
    assert len({tuple(picture.flatten().tolist()) for picture in pictures}) == 6


def _config(model: str, algorithm: str, data: Path, server: str, output: Path) -> dict[str, Any]:
    settings, guidance_scale, with_references = MODELS[model]
    algorithm_settings, sampling = ALGORITHMS[algorithm]
    chosen = {"optimizer_steps_per_epoch": 2, **algorithm_settings}
    offline, ending = "data" in chosen, "-references" if with_references else ""
    if offline:
        chosen["data"] = str(data / f"{chosen['data']}{ending}.jsonl")
    config: dict[str, Any] = {
        "model": {**settings, "path": str(WEIGHTS / settings["path"]), "height": 64, "width": 64, "lora_rank": 2},
        "algorithm": chosen,
        "ema": {"enabled": False},
        "run": {"output": str(output), "epochs": 1, "trackers": [], "threads": 1},
    }
    if not offline:
        config["prompts"] = {"train": str(data / f"prompts{ending}.jsonl")}
        config["rewards"] = [{"name": "red", "scorer": "redness", "targets": [server]}]
        config["sampling"] = {
            "num_steps": 4,
            "guidance_scale": guidance_scale,
            "group_size": 3,
            "groups_per_epoch": 2,
            "micro_batch_size": 3,
            **sampling,
        }
    return config
