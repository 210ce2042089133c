"""A model that writes: greedy text on the classes that judges are made from, alone, in batches, and behind a server."""

import logging
from pathlib import Path
from typing import Any

import pytest
import tiny_verifiers
import torch
from fastapi.responses import JSONResponse
from openai_server import OpenAiServer, running
from tiny_verifiers import random_images

from assay.errors import ConfigError
from assay.outcomes import Failed
from assay.serving.model_files import ModelLoadError
from assay.vision_language.chat_server import ChatServer
from assay.vision_language.config import OpenAiBlock
from assay.vision_language.inquiry import Inquiry
from assay.vision_language.openai_writer import OpenAiWriter
from assay.vision_language.passes import passes
from assay.vision_language.transformers_writer import TransformersWriter
from assay.vision_language.vision_language_model import VisionLanguageModel

CLASSES = ("writing_llava", "idefics3", "onevision", "qwen2_5_vl", "qwen3_vl")
TOKENS = 6


def _load(folder: Path, **options: Any) -> VisionLanguageModel:
    return VisionLanguageModel.load(str(folder), affirmation="yes", device="cpu", **options)


@pytest.fixture(scope="module", params=CLASSES)
def vlm(request: pytest.FixtureRequest) -> VisionLanguageModel:
    if request.param in ("writing_llava", "idefics3"):
        return _load(request.getfixturevalue(f"{request.param}_folder"))
    return getattr(tiny_verifiers, f"make_{request.param}")()


def _inquiries() -> list[Inquiry]:
    """One image, and two, in conversations of unequal length."""
    one, two, three = random_images(3)
    return [
        Inquiry((one,), ("<image> Where is the kite?",)),
        Inquiry((two, three), ("<image><image> Where in the second image is what the first one shows?",)),
        Inquiry((three, two), ("<image> and <image>: where?",)),
    ]


@torch.inference_mode()
def _step_by_step(vlm: VisionLanguageModel, inquiry: Inquiry) -> str:
    """Greedy text without `generate`: the whole conversation anew for each token."""
    inputs = vlm.inputs([vlm.conversation(inquiry, 1)], [inquiry.images])
    said: list[int] = []
    while len(said) < TOKENS:
        token = int(vlm.model(**inputs).logits[0, -1].argmax())
        if token == vlm.tokenizer.eos_token_id:
            break
        said.append(token)
        for name, further in (("input_ids", token), ("attention_mask", 1), ("mm_token_type_ids", 0)):
            if name in inputs:
                inputs[name] = torch.cat([inputs[name], torch.tensor([[further]])], dim=1)
    return vlm.tokenizer.decode([one for one in said if one != vlm.tokenizer.pad_token_id])


def test_what_is_written_is_the_likeliest_token_next_alone_and_in_batches(vlm: VisionLanguageModel) -> None:
    vlm.model.generation_config.repetition_penalty = 3.0  # of a model's own configuration: it would forbid numbers
    writer, inquiries = TransformersWriter(vlm), _inquiries()
    expected = [_step_by_step(vlm, inquiry) for inquiry in inquiries]
    assert writer.max_images_per_pass == 16
    assert writer.write(inquiries, TOKENS) == expected
    assert [writer.write([inquiry], TOKENS)[0] for inquiry in inquiries] == expected
    assert len(set(expected)) > 1
    assert writer.deterministic


def test_passes_hold_so_many_images_and_at_least_one_inquiry() -> None:
    inquiries = _inquiries()  # of 1, 2 and 2 images
    counts = {most: [len(together) for together in passes(inquiries, most)] for most in (1, 2, 3, 4, 5)}
    assert counts == {1: [1, 1, 1], 2: [1, 1, 1], 3: [2, 1], 4: [2, 1], 5: [3]}
    assert [one for together in passes(inquiries, 3) for one in together] == inquiries


def test_a_model_that_writes_otherwise_in_batches_writes_one_by_one(
    writing_llava_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vlm = _load(writing_llava_folder)
    expected = TransformersWriter(vlm).write(_inquiries(), TOKENS)
    vlm.tokenizer.padding_side = "right"  # what it writes then follows upon padding
    with caplog.at_level(logging.WARNING, "assay.vision_language"):
        writer = TransformersWriter(vlm)
    assert "batches change its texts; inquiries go one by one" in caplog.text
    assert writer.write(_inquiries(), TOKENS) == expected


def test_a_model_whose_logits_are_no_numbers_is_refused_at_the_start(writing_llava_folder: Path) -> None:
    vlm = _load(writing_llava_folder)
    vlm.model.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(ModelLoadError, match=r"no numbers in torch\.float32.*allowed: another backend\.dtype"):
        TransformersWriter(vlm)


def test_half_precision_does_not_claim_that_batches_change_nothing(writing_llava_folder: Path) -> None:
    assert not TransformersWriter(_load(writing_llava_folder, dtype="bfloat16")).deterministic


def test_marks_that_end_a_text_are_left_out_and_marks_of_places_are_not(writing_llava_folder: Path) -> None:
    vlm = _load(writing_llava_folder)
    vlm.tokenizer.add_special_tokens({"additional_special_tokens": ["<loc_12>", "<|im_start|>"]})
    writer = TransformersWriter(vlm)
    ids = [vlm.tokenizer.convert_tokens_to_ids(mark) for mark in ("<loc_12>", "<|im_end|>", "<|endoftext|>")]
    assert writer._texts(torch.tensor([ids])) == ["<loc_12>"]


def test_how_far_an_image_is_scaled_is_told_by_the_grid_of_patches_or_not_at_all(writing_llava_folder: Path) -> None:
    """Qwen2.5-VL's: sides become multiples of patch times merge (4 * 2 here), within 16 * 16 to 32 * 32 pixels."""
    qwen = tiny_verifiers.make_qwen2_5_vl()
    wide = random_images(1, size=(64, 200))[0]
    width, height = TransformersWriter(qwen).input_size(wide) or (0, 0)
    seen = qwen.inputs([qwen.conversation(Inquiry((wide,), ("<image>",)), 1)], [[wide]])["pixel_values"]
    assert (width % 8, height % 8) == (0, 0)
    assert width > height
    assert (width // 4) * (height // 4) == seen.shape[0]
    assert TransformersWriter(_load(writing_llava_folder)).input_size(wide) is None


@pytest.fixture(scope="module")
def server(writing_llava_folder: Path) -> Any:
    with running(OpenAiServer(_load(writing_llava_folder))) as served:
        yield served


def _writer(server: OpenAiServer, **block: Any) -> OpenAiWriter:
    given = {"name": "openai", "base_url": server.base_url, "model": "tiny", "weights": "a", **block}
    return OpenAiWriter(ChatServer(OpenAiBlock.model_validate(given), "yes"))


def test_a_server_writes_what_the_model_writes_here(server: OpenAiServer, writing_llava_folder: Path) -> None:
    here = TransformersWriter(_load(writing_llava_folder))
    there = _writer(server)
    assert there.write(_inquiries(), TOKENS) == here.write(_inquiries(), TOKENS)
    body = server.requests[-1][1]
    assert (body["temperature"], body["max_tokens"], "logprobs" in body) == (0.0, TOKENS, False)
    assert there.input_size(random_images(1)[0]) is None
    assert not there.deterministic


@pytest.mark.parametrize(
    ("choices", "reason"),
    [([], "JUDGE_UNREADABLE"), ([{"message": {"content": None}}], "JUDGE_UNREADABLE"), ([7], "JUDGE_UNREADABLE")],
)
def test_no_text_is_a_failure_of_one_item_and_not_an_empty_answer(
    server: OpenAiServer, choices: list[Any], reason: str
) -> None:
    writer = _writer(server, max_concurrency=1)
    server.faults.append(lambda answer: JSONResponse({**answer, "choices": choices}))
    first, second, _ = writer.write(_inquiries(), TOKENS)
    assert isinstance(first, Failed)
    assert first.reason == reason
    assert isinstance(second, str)


def test_a_server_that_writes_nothing_is_refused_at_the_start(server: OpenAiServer) -> None:
    server.faults.append(lambda answer: JSONResponse({**answer, "choices": []}))
    with pytest.raises(ConfigError, match=r"backend\.model = 'tiny': the judge's answer is no chat completion"):
        _writer(server)
