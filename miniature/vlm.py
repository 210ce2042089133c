"""A vision-language model for the small world, in the classes of real ones: what a verifier's recipe starts from.

LLaVA's class with the parts of LLaVA-OneVision (a SigLIP tower, a two-layer projector, a Qwen2), for unlike that
class its processor needs no torchvision. The tower looks at 64 x 64 pixels in patches of 8, so that an image becomes
64 tokens. The weights are random: training is the recipe's.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen2Config,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)

from miniature.tokenizer import IMAGE, build_chat_tokenizer

IMAGE_PIXELS, PATCH_PIXELS = 64, 8


def build_vlm(
    texts: Iterable[str],
    *,
    seed: int = 0,
    width: int = 160,
    text_layers: int = 4,
    vision_width: int = 128,
    vision_layers: int = 4,
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """A model with random weights, in float32, and the processor that goes with it.

    Args:
        texts: what the model will be asked and will answer; each of its words becomes one token.
        seed: of the weights.
        width, text_layers: of the language model; heads are 32 wide.
        vision_width, vision_layers: of the vision tower.
    """
    processor = build_processor(texts)
    tokenizer = processor.tokenizer
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(
            image_size=IMAGE_PIXELS,
            patch_size=PATCH_PIXELS,
            hidden_size=vision_width,
            intermediate_size=2 * vision_width,
            num_hidden_layers=vision_layers,
            num_attention_heads=vision_width // 32,
            vision_use_head=False,
        ),
        text_config=Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=text_layers,
            num_attention_heads=width // 32,
            num_key_value_heads=width // 32,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        ),
        image_token_index=processor.image_token_id,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    return LlavaForConditionalGeneration(config).eval(), processor


def build_processor(texts: Iterable[str]) -> LlavaProcessor:
    """Images to (3, 64, 64) in [-1, 1], text to tokens, and 64 places for an image where `<image>` stands."""
    return LlavaProcessor(
        image_processor=SiglipImageProcessorPil(size={"height": IMAGE_PIXELS, "width": IMAGE_PIXELS}),
        tokenizer=(tokenizer := build_chat_tokenizer(texts)),
        patch_size=PATCH_PIXELS,
        vision_feature_select_strategy="full",
        image_token=IMAGE,
        chat_template=tokenizer.chat_template,
    )


def save_vlm(folder: Path, model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> Path:
    """Write both as they lie on the hub, the weights in half precision."""
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
