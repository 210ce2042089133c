"""examples/trl_reward.py in a real `trl.GRPOTrainer`: a tiny Qwen3 writes prompts, the miniature draws them."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from minimal_flow_grpo import load_pipeline
from red_judge import RedJudge
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from trl import GRPOConfig, GRPOTrainer
from trl_reward import make_image_reward

from assay.errors import ScoringFailedError
from assay.testing import serve_in_background

WORDS = ["a", "photo", "of", "one", "two", "three", "red", "green", "apple", "cup", "kite", "donut", "please", "draw"]


def _row(name: str, count: int) -> str:
    row = {"tag": "counting", "include": [{"class": name, "count": count}], "prompt": f"a photo of {count} {name}"}
    return json.dumps(row)


class Renderer:
    """Draws with the miniature, and remembers what it was asked for and what came of it."""

    def __init__(self) -> None:
        self._pipe = load_pipeline("miniature/weights/sd3")
        self._pipe.set_progress_bar_config(disable=True)
        self.prompts: list[str] = []
        self.images: list[np.ndarray] = []

    def __call__(self, prompts: list[str]) -> Sequence[Any]:
        size = {"height": 64, "width": 64, "guidance_scale": 1.0, "max_sequence_length": 0, "num_inference_steps": 2}
        images = self._pipe(prompts, generator=torch.Generator().manual_seed(len(self.prompts)), **size).images
        self.prompts += prompts
        self.images += [np.asarray(image) for image in images]
        return images


@pytest.fixture(scope="module")
def render() -> Renderer:
    return Renderer()


def _trainer(folder: Path, reward: Any, rows: list[dict[str, Any]]) -> GRPOTrainer:
    """Groups of four completions of up to eight words, two optimizer steps, by the trainer's own rules otherwise."""
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(["<pad>", "<end>", *WORDS])}, "<pad>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>")
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=16,
            pad_token_id=0,
            eos_token_id=1,
        )
    )
    settings = GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        max_steps=2,
        learning_rate=1e-2,
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=8,
        beta=0.0,
    )
    return GRPOTrainer(model, reward, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)


def _rows(*rows: str | None) -> list[dict[str, Any]]:
    return [{"prompt": f"please draw {n}", "geneval": row} for n, row in zip(WORDS, rows, strict=False)]


def test_the_trainer_learns_from_pictures_of_what_the_model_wrote(tmp_path: Path, render: Renderer) -> None:
    judge = RedJudge()
    rows = _rows(_row("apple", 1), _row("cup", 2), _row("kite", 3), _row("donut", 1))
    with serve_in_background([judge]) as server:
        trainer = _trainer(tmp_path, make_image_reward(render, [server.target], scorer="redness"), rows)
        before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
        trainer.train()
    logged = [entry for entry in trainer.state.log_history if "rewards/redness/mean" in entry]
    assert len(logged) == 2
    assert len(judge.seen) == len(render.images) == 16
    for step, entry in enumerate(logged):
        images = render.images[8 * step : 8 * step + 8]
        wanted = np.mean([image[..., 0].mean() / 255 for image in images])
        assert entry["rewards/redness/mean"] == pytest.approx(wanted, abs=1e-5)
        assert entry["reward_std"] > 0
    assert any(not torch.equal(value, before[name]) for name, value in trainer.model.named_parameters())
    # What is drawn is what the model wrote; what is judged is what was asked for.
    assert all(set(prompt.split()) <= set(WORDS) for prompt in render.prompts)
    assert len(set(render.prompts)) > 8
    assert {sample.prompt for sample in judge.seen} <= {json.loads(row["geneval"])["prompt"] for row in rows}
    for sample in judge.seen:
        (clause,) = sample.task.include  # type: ignore[union-attr]
        assert sample.prompt == f"a photo of {clause.count} {clause.class_name}"


def test_a_picture_without_score_moves_nothing_if_so_asked_and_stops_the_training_otherwise(
    tmp_path: Path, render: Renderer
) -> None:
    rows = _rows(_row("apple", 1), _row("cup", 2))
    with serve_in_background([RedJudge(fail_at=2)]) as server:
        reward = make_image_reward(render, [server.target], scorer="redness", on_failure="none")
        trainer = _trainer(tmp_path, reward, rows)
        trainer.args.max_steps = 1
        drawn = len(render.images)
        trainer.train()
        reds = [image[..., 0].mean() / 255 for image in render.images[drawn:]]
    given = list(trainer._logs["rewards"]["redness"])
    (unscored,) = np.flatnonzero(np.isnan(given))
    assert given[:unscored] + given[unscored + 1 :] == pytest.approx(reds[:unscored] + reds[unscored + 1 :])
    assert list(trainer._logs["advantages"])[unscored] == 0

    with serve_in_background([RedJudge(fail_at=2)]) as server:
        trainer = _trainer(tmp_path, make_image_reward(render, [server.target], scorer="redness"), rows)
        with pytest.raises(ScoringFailedError, match="cannot be judged"):
            trainer.train()


def test_where_nothing_is_to_be_judged_the_reward_does_not_apply(render: Renderer) -> None:
    judge = RedJudge()
    conversation = [{"role": "assistant", "content": "a red apple"}]
    with serve_in_background([judge]) as server:
        reward = make_image_reward(render, [server.target], scorer="redness")
        assert reward.__name__ == "redness"
        mixed = asyncio.run(
            reward(
                prompts=["x"] * 3,
                completions=[conversation] * 3,
                completion_ids=[[1]] * 3,
                geneval=[None, _row("apple", 1), None],
                trainer_state=None,
            )
        )
        assert asyncio.run(reward(prompts=["x"], completions=["y"], geneval=[None])) == [None]
    assert mixed[0] is mixed[2] is None
    assert mixed[1] == pytest.approx(render.images[-1][..., 0].mean() / 255)
    assert render.prompts[-1] == "a red apple"
    assert len(judge.seen) == 1


def test_an_unknown_policy_is_refused(render: Renderer) -> None:
    with pytest.raises(ValueError, match="on_failure = 'zero': must be one of raise, none"):
        make_image_reward(render, ["localhost:1"], scorer="redness", on_failure="zero")  # type: ignore[arg-type]
