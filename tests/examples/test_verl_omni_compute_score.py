"""examples/verl_omni_compute_score.py, loaded and called as VeRL-Omni's reward managers do."""

import asyncio
import importlib.util
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from red_judge import RedJudge

from assay.errors import FingerprintMismatchError, ScoringFailedError
from assay.testing import serve_in_background

ROOT = Path(__file__).parents[2]
ROW = {"tag": "counting", "include": [{"class": "apple", "count": 2}], "prompt": "a photo of two apples"}


def _settings() -> dict[str, str]:
    """The overrides that the module's own text gives, less their common start."""
    text = (ROOT / "examples/verl_omni_compute_score.py").read_text()
    return dict(re.findall(r"^    \+reward\.reward_functions\.counting\.(\w+)=(\S+)$", text, re.MULTILINE))


def _load(settings: dict[str, str]) -> Callable[..., Any]:
    """By file and name, as `load_extern_object` does."""
    spec = importlib.util.spec_from_file_location("custom_module", ROOT / settings["path"])
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return getattr(module, settings["name"])


def _image(red: int) -> torch.Tensor:
    image = torch.full((3, 8, 8), 100, dtype=torch.uint8)
    image[0] = red
    return image


def _arguments(image: torch.Tensor, row: Any = None, **added: Any) -> dict[str, Any]:
    """The keywords of the managers: what is in the dataset, what they add, and what the configuration adds."""
    extra_info = {"split": "train", "index": 0, "geneval": json.dumps(ROW) if row is None else row}
    extra_info |= {"num_turns": None, "rollout_reward_scores": {}}
    from_manager = {"reward_router_address": "localhost:1", "reward_model_tokenizer": None, "model_name": "judge"}
    given = {"data_source": "geneval", "ground_truth": ROW["prompt"], "extra_info": extra_info, **from_manager}
    return {**given, "solution_image": image, **added}


def test_an_epoch_of_many_calls_at_once() -> None:
    settings = _settings()
    assert settings.keys() == {"path", "name", "weight", "required", "targets", "scorer"}
    assert settings["required"] == "true"  # else the trainer puts 0 in place of a failure
    compute_score = _load(settings)
    assert inspect.iscoroutinefunction(compute_score)  # the managers await it then

    judge = RedJudge("counting")
    reds = range(0, 250, 10)
    with serve_in_background([judge]) as server:
        added = {"targets": [server.target], "scorer": settings["scorer"], "components": ["strict_correct"]}

        async def epoch() -> list[dict[str, float]]:
            return await asyncio.gather(*(compute_score(**_arguments(_image(red), **added)) for red in reds))

        results = asyncio.run(epoch())
        again = asyncio.run(epoch())  # another loop, as another worker thread has
    assert [result["score"] for result in results] == pytest.approx([red / 255 for red in reds])
    assert [result["strict_correct"] for result in results] == [float(red > 0.9 * 255) for red in reds]
    assert all(result.keys() == {"score", "strict_correct"} and type(result["score"]) is float for result in results)
    assert again == results
    assert len(judge.seen) == 2 * len(reds)
    assert {(sample.prompt, sample.task.include[0].count) for sample in judge.seen} == {(ROW["prompt"], 2)}


def test_floats_frames_and_mappings_are_taken_as_well() -> None:
    compute_score = _load(_settings())
    with serve_in_background([RedJudge("counting")]) as server:
        added = {"targets": server.target, "scorer": "counting"}
        scores = [
            asyncio.run(compute_score(**_arguments(image, row=ROW, **added)))["score"]
            for image in (_image(51), _image(51).float() / 255, _image(51)[None])
        ]
    assert scores == pytest.approx([0.2, 0.2, 0.2])


def test_a_failed_score_is_raised_and_so_is_what_is_no_picture() -> None:
    compute_score = _load(_settings())
    with serve_in_background([RedJudge("counting")]) as server:
        added = {"targets": [server.target], "scorer": "counting"}

        def fails(error: type[Exception], match: str, **arguments: Any) -> None:
            with pytest.raises(error, match=match):
                asyncio.run(compute_score(**_arguments(**{"image": _image(51), **added, **arguments})))

        fails(ScoringFailedError, "cannot be judged", image=torch.zeros(3, 8, 8, dtype=torch.uint8))
        fails(ValueError, r"not all in \[0, 1\]", image=torch.randn(3, 8, 8))  # a latent
        fails(ValueError, r"not all in \[0, 1\]", image=torch.full((3, 8, 8), float("nan")))
        fails(ValueError, r"shape \(16, 8, 8\)", image=torch.rand(16, 8, 8))
        fails(ValueError, r"shape \(4, 3, 8, 8\)", image=torch.rand(4, 3, 8, 8))
        fails(ValueError, "int64", image=_image(51).long())
        fails(FingerprintMismatchError, "expected was ffff", fingerprint="ffff")
        arguments = _arguments(_image(51), **added)
        del arguments["extra_info"]["geneval"]
        with pytest.raises(ValueError, match=r"no 'geneval'.*it has: split, index"):
            asyncio.run(compute_score(**arguments))
