"""Vision-language models of the classes that verifiers are made from, with random weights: of LLaVA-1.5's and
Idefics3's, saved as they lie on the hub; of LLaVA-OneVision's, Qwen2.5-VL's and Qwen3-VL's, whose processors load only
with torchvision, in memory and with a processor that knows no videos.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlamaConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    SiglipVisionConfig,
)

from assay.questions import QUESTION_FILES
from assay.vision_language.vision_language_model import VisionLanguageModel
from miniature.tokenizer import build_chat_tokenizer
from miniature.vlm import build_vlm, save_vlm

TEXTS = [path.read_text() for path in sorted(QUESTION_FILES.glob("*.txt"))]
_QWEN_VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "depth": 2,
    "num_heads": 2,
    "out_hidden_size": 64,
    "patch_size": 4,
}
_TEXT = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def random_images(count: int, seed: int = 0, size: tuple[int, int] = (64, 64)) -> list[NDArray[np.uint8]]:
    """Random (height, width, 3) images; read-only, as they come from the wire."""
    images = list(np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8))
    for image in images:
        image.flags.writeable = False
    return images


def save_llava(folder: Path, *, leans: bool = True, texts: Sequence[str] = ()) -> Path:
    """The miniature's model, smaller.

    Args:
        folder: where to.
        leans: whether yes and no are what it wants to say.
        texts: whose words are tokens, too.
    """
    model, processor = build_vlm([*TEXTS, *texts], width=64, text_layers=2, vision_width=64, vision_layers=2)
    _sharpened(model)
    if not leans:
        _sharpened(model)
    if leans:
        _lean_to(["yes", "no"], model, processor)
    return save_vlm(folder, model, processor)


def save_idefics3(folder: Path) -> Path:
    tokenizer = _tokenizer(["<fake_token_around_image>", "<global-img>", "<end_of_utterance>"])
    processor = Idefics3Processor(
        Idefics3ImageProcessorPil(
            size={"longest_edge": 32}, max_image_size={"longest_edge": 32}, do_image_splitting=False
        ),
        tokenizer,
        image_seq_len=4,
        chat_template=tokenizer.chat_template,
    )
    config = Idefics3Config(
        vision_config={"image_size": 32, "patch_size": 8, **_TEXT},
        text_config=LlamaConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **_TEXT),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    _sharpened(Idefics3ForConditionalGeneration(config)).half().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def make_onevision() -> VisionLanguageModel:
    tokenizer = _tokenizer(["<video>"])
    images = LlavaOnevisionImageProcessorPil(size={"height": 32, "width": 32}, image_grid_pinpoints=[[32, 32]])
    processor = _OnevisionWithoutVideos(
        images,
        tokenizer,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
        image_token="<image>",
        vision_aspect_ratio="anyres_max_9",
    )
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(image_size=32, patch_size=8, vision_use_head=False, **_TEXT),
        text_config=Qwen2Config(vocab_size=len(tokenizer), **_TEXT, num_key_value_heads=2),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=[[32, 32]],
        vision_feature_select_strategy="full",
    )
    torch.manual_seed(0)
    return _in_memory(LlavaOnevisionForConditionalGeneration(config), processor)


def make_qwen2_5_vl() -> VisionLanguageModel:
    processor, ids = _qwen_processor(Qwen2_5_VLProcessor)
    vision = {"fullatt_block_indexes": [1], "window_size": 16, **_QWEN_VISION}
    config = Qwen2_5_VLConfig(text_config=_qwen_text(processor), vision_config=vision, **ids)
    torch.manual_seed(0)
    return _in_memory(Qwen2_5_VLForConditionalGeneration(config), processor)


def make_qwen3_vl() -> VisionLanguageModel:
    processor, ids = _qwen_processor(Qwen3VLProcessor)
    vision = {"deepstack_visual_indexes": [0], "num_position_embeddings": 64, **_QWEN_VISION}
    config = Qwen3VLConfig(text_config={"head_dim": 32, **_qwen_text(processor)}, vision_config=vision, **ids)
    torch.manual_seed(0)
    return _in_memory(Qwen3VLForConditionalGeneration(config), processor)


def _qwen_processor(processor_class: type) -> tuple[Any, dict[str, int]]:
    """A processor without videos, and the ids of the marks that configurations name."""
    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = _tokenizer(marks)
    template = tokenizer.chat_template.replace("<image>", "".join(marks[:1] + marks[2:3] + marks[1:2]))
    images = Qwen2VLImageProcessorPil(patch_size=4, min_pixels=16 * 16, max_pixels=32 * 32)
    without_videos = type("WithoutVideos", (_WithoutVideos, processor_class), {})
    names = ("vision_start", "vision_end", "image", "video")
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(mark) for name, mark in zip(names, marks, strict=True)}
    return without_videos(images, tokenizer, chat_template=template), ids


def _qwen_text(processor: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(processor.tokenizer),
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "mrope_section": [8, 4, 4], "rope_theta": 10_000.0},
        "bos_token_id": None,
        "eos_token_id": processor.tokenizer.eos_token_id,
        **_TEXT,
    }


class _WithoutVideos:
    """A processor's constructor asks for a video processor, which needs torchvision; no image does."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        if argument_name == "video_processor":
            return type(None)
        return super().check_argument_for_proper_class(argument_name, argument)  # type: ignore[misc]


class _OnevisionWithoutVideos(_WithoutVideos, LlavaOnevisionProcessor):
    pass


def _in_memory(model: PreTrainedModel, processor: Any) -> VisionLanguageModel:
    return VisionLanguageModel(_sharpened(model).eval(), processor, "yes", {"model": type(model).__name__})


def _tokenizer(marks: list[str]) -> Any:
    tokenizer = build_chat_tokenizer(TEXTS)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<image>", *marks]})
    return tokenizer


@torch.no_grad()
def _lean_to(words: list[str], model: PreTrainedModel, processor: Any, by: float = 8.0) -> None:
    """Raise the logits of some words, so that they are what the model wants to say."""
    message = {
        "role": "user",
        "content": [{"type": "image"}, {"type": "text", "text": TEXTS[1].replace("<image>", "")}],
    }
    text = processor.apply_chat_template([message], add_generation_prompt=True)
    inputs = processor(text=text, images=Image.fromarray(random_images(1)[0]), return_tensors="pt")
    hidden = model(**inputs, output_hidden_states=True).hidden_states[-1][0, -1]
    rows = processor.tokenizer.convert_tokens_to_ids(words)
    model.get_output_embeddings().weight[rows] += by * hidden / hidden.square().sum()


@torch.no_grad()
def _sharpened(model: PreTrainedModel) -> PreTrainedModel:
    """Larger weights: with those of a new model, a wrong position or mask would change answers by next to nothing."""
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.mul_(4.0)
    return model
