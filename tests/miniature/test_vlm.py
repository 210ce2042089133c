"""The vision-language model that recipes start from: it loads by the hub's classes, and words are whole."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from miniature.prompts import counting_metadata
from miniature.vlm import build_vlm, save_vlm

QUESTION = "Does this image show what the prompt says? Answer yes or no."


@pytest.fixture(scope="module")
def built() -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    return build_vlm([QUESTION], width=64, text_layers=1, vision_width=64, vision_layers=1)


def test_what_is_saved_loads_whole_and_answers_the_same(
    built: tuple[LlavaForConditionalGeneration, LlavaProcessor], tmp_path: Path
) -> None:
    model, processor = built
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": f" {QUESTION}"}]}
    text = processor.apply_chat_template([message], add_generation_prompt=True)
    assert text == f"<|im_start|>user\n<image> {QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    image = Image.fromarray(np.full((48, 80, 3), 200, np.uint8))
    inputs = processor(text=text, images=image, return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 64, 64)
    assert int((inputs["input_ids"] == processor.image_token_id).sum()) == 64

    save_vlm(tmp_path, model, processor)
    loaded, report = AutoModelForImageTextToText.from_pretrained(
        tmp_path, output_loading_info=True, dtype=torch.float32
    )
    assert not any(report.values())
    again = AutoProcessor.from_pretrained(tmp_path)(text=text, images=image, return_tensors="pt")
    assert torch.equal(again["input_ids"], inputs["input_ids"])
    with torch.inference_mode():
        logits = [one.float().eval()(**inputs).logits for one in (model, loaded)]
    assert torch.allclose(*logits, atol=1e-5)


def test_every_word_is_one_token(built: tuple[LlavaForConditionalGeneration, LlavaProcessor]) -> None:
    tokenizer = built[1].tokenizer
    said = f"{QUESTION} {counting_metadata('kite', 3)['prompt']}"
    assert len(tokenizer.tokenize(said)) == len(said.split()) + said.count("?") + said.count(".")
    assert [len(tokenizer.tokenize(word)) for word in ("yes", "no", "Yes", "No", " yes")] == [1] * 5


def test_a_seed_is_a_model() -> None:
    def weights(seed: int) -> torch.Tensor:
        model, _ = build_vlm([QUESTION], seed=seed, width=64, text_layers=1, vision_width=64, vision_layers=1)
        return torch.cat([one.detach().flatten() for one in model.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
