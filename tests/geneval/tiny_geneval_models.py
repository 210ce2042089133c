"""Random weights of the real model classes, saved as they lie on the hub. They find nothing sensible; shapes, frames,
loading and batching are what they test."""

from pathlib import Path

import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessorPil,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrImageProcessorPil,
    RTDetrResNetConfig,
    SwinConfig,
)

COCO_NAMES = ("apple", "mouse", "kite")


def save_mask2former(folder: Path, *, size: int = 64) -> Path:
    """A Mask2Former of 0.1 M parameters that scales its input to `size` pixels a side; weights in half precision."""
    backbone = SwinConfig(
        image_size=size,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=16,
        num_queries=10,
        **_labels(),
    )
    torch.manual_seed(0)
    Mask2FormerForUniversalSegmentation(config).half().save_pretrained(folder)
    Mask2FormerImageProcessorPil(size={"height": size, "width": size}).save_pretrained(folder)
    return folder


def save_rt_detr(folder: Path) -> Path:
    """An RT-DETR of a few hundred thousand parameters."""
    backbone = RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], layer_type="basic", out_indices=[2, 3, 4]
    )
    config = RTDetrConfig(
        backbone_config=backbone,
        encoder_hidden_dim=32,
        encoder_in_channels=[16, 16, 16],
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        d_model=32,
        num_queries=10,
        decoder_in_channels=[32, 32, 32],
        decoder_ffn_dim=16,
        decoder_layers=1,
        decoder_attention_heads=2,
        num_denoising=0,
        **_labels(),
    )
    torch.manual_seed(0)
    RTDetrForObjectDetection(config).save_pretrained(folder)
    RTDetrImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def save_clip(folder: Path) -> Path:
    """A CLIP of a few thousand parameters that spells its words letter by letter."""
    letters = "abcdefghijklmnopqrstuvwxyz-"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    text = {"vocab_size": len(words), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config={**text, **sizes}, vision_config={**vision, **sizes}, projection_dim=8))
    model.save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    tokenizer = CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[])
    CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def _labels() -> dict[str, dict]:
    names = dict(enumerate(COCO_NAMES))
    return {"id2label": names, "label2id": {name: index for index, name in names.items()}}
