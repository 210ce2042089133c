"""examples/flow_grpo_score_fn.py, driven as Flow-GRPO's training scripts drive their reward function."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from flow_grpo_score_fn import make_score_fn
from red_judge import RedJudge

from assay.errors import ScorerNotFoundError, ScoringFailedError
from assay.testing import serve_in_background


def _row(name: str) -> dict:
    return {"tag": "single_object", "include": [{"class": name, "count": 1}], "prompt": f"a photo of one {name}"}


def _images(*reds: float) -> torch.Tensor:
    """(len(reds), 3, 8, 8) in [0, 1], each of one red; green, so that nothing is black."""
    images = torch.full((len(reds), 3, 8, 8), 0.5)
    images[:, 0] = torch.tensor(reds)[:, None, None]
    return images


def test_an_epoch_as_the_trainer_runs_it() -> None:
    """One submit for each micro-batch, futures resolved when all is sampled, columns put together by name."""
    reds = [[0.0, 0.2, 0.4], [0.6, 0.8, 1.0], [0.1, 0.3, 0.95]]
    judges = [RedJudge("geneval"), RedJudge("other")]
    with serve_in_background(judges) as server, ThreadPoolExecutor(max_workers=8) as executor:
        reward_fn = make_score_fn({"geneval": 1.0, "other": 0.5}, [server.target])
        samples = []
        for number, micro_batch in enumerate(reds):
            # Every micro-batch is about other classes, so that its scores have other components.
            rows = tuple(
                _row(name) for name in (("apple", "cup", "kite"), ("donut",) * 3, ("car", "car", "bus"))[number]
            )
            prompts = tuple(row["prompt"] for row in rows)
            samples.append(executor.submit(reward_fn, _images(*micro_batch), prompts, rows, only_strict=True))
        columns = []
        for sample in samples:
            rewards, metadata = sample.result()
            assert metadata == {}
            columns.append({key: torch.as_tensor(value).float() for key, value in rewards.items()})
        epoch = {key: torch.cat([column[key] for column in columns]) for key in columns[0]}

    assert set(epoch) == {"geneval", "other", "avg", "accuracy", "strict_accuracy"}
    wanted = torch.tensor([round(red * 255) / 255 for micro_batch in reds for red in micro_batch])
    torch.testing.assert_close(epoch["geneval"], wanted)
    torch.testing.assert_close(epoch["avg"], 1.5 * wanted)  # a weighted sum, as theirs
    assert epoch["accuracy"].tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 1]
    assert epoch["strict_accuracy"].tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 1]
    for judge in judges:
        asked = {(sample.prompt, sample.task.include[0].class_name) for sample in judge.seen}
        assert asked == {(f"a photo of one {n}", n) for n in ("apple", "cup", "kite", "donut", "car", "bus")}


def test_arrays_score_as_the_same_tensor_does() -> None:
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 1.1  # some are clipped
    pixels = (images * 255).round().clamp(0, 255).to(torch.uint8).numpy().transpose(0, 2, 3, 1)
    rows = [_row("cup")] * 4
    judge = RedJudge("geneval")
    with serve_in_background([judge]) as server:
        score_fn = make_score_fn({"geneval": 1.0}, [server.target])
        of_tensor, _ = score_fn(images, ["a"] * 4, rows, only_strict=False)
        of_array, _ = score_fn(pixels, ["a"] * 4, rows, None, only_strict=False)
    assert of_tensor == of_array
    assert sorted(s.images[0].tobytes() for s in judge.seen) == sorted(2 * [image.tobytes() for image in pixels])


def test_a_failed_score_stops_the_training_unless_nan_is_asked_for() -> None:
    images = _images(0.2, 0.4, 0.6)
    images[1] = 0  # black: cannot be judged
    rows = [_row("cup")] * 3
    with serve_in_background([RedJudge("geneval")]) as server:
        with pytest.raises(ScoringFailedError, match=r"image 1.*cannot be judged"):
            make_score_fn({"geneval": 1.0}, [server.target])(images, ["a"] * 3, rows)
        rewards, _ = make_score_fn({"geneval": 1.0}, [server.target], on_failure="nan")(images, ["a"] * 3, rows)
    for key in ("geneval", "avg", "accuracy", "strict_accuracy"):
        assert [math.isnan(value) for value in rewards[key]] == [False, True, False]
    assert rewards["avg"][0] == pytest.approx(51 / 255)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="on_failure = 'zero': must be one of raise, nan"):
        make_score_fn({"geneval": 1.0}, ["localhost:1"], on_failure="zero")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="targets"):
        make_score_fn({"geneval": 1.0}, "localhost:1")
    with serve_in_background([RedJudge("geneval")]) as server:
        score_fn = make_score_fn({"geneval": 1.0}, [server.target])
        diverged = _images(0.2)
        diverged[0, 0, 0, 0] = float("nan")
        with pytest.raises(ValueError, match="not finite"):
            score_fn(diverged, ["a"], [_row("cup")])
        with pytest.raises(ValueError, match=r"float64 and shape \(1, 8, 8, 3\)"):
            score_fn(np.zeros((1, 8, 8, 3)), ["a"], [_row("cup")])
        with pytest.raises(ScorerNotFoundError, match="aesthetic"):
            make_score_fn({"aesthetic": 1.0}, [server.target])(_images(0.2), ["a"], [_row("cup")])
