"""A real `Flux2KleinPipeline` with a few thousand random weights, and a planner's folder to feed it."""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import Qwen2TokenizerFast, Qwen3Config, Qwen3ForCausalLM

TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"


def save_tiny_klein(folder: Path, *, is_distilled: bool = True) -> Path:
    """Save one in the hub's layout; the same weights each time."""
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    text = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
    )
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 4),
        layers_per_block=1,
        latent_channels=2,
        norm_num_groups=2,
        mid_block_add_attention=False,
    )
    transformer = Flux2Transformer2DModel(
        in_channels=8,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=48,
        timestep_guidance_channels=8,
        axes_dims_rope=(2, 2, 2, 2),
        guidance_embeds=False,
    )
    pipeline = Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae,
        text_encoder=Qwen3ForCausalLM(text),
        tokenizer=tokenizer,
        transformer=transformer,
        is_distilled=is_distilled,
    )
    pipeline.save_pretrained(folder)
    return folder


def _tokenizer() -> Qwen2TokenizerFast:
    """One token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {symbol: index for index, symbol in enumerate([*alphabet, *special])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(special)
    tokenizer = Qwen2TokenizerFast(
        vocab=vocabulary, merges=[], pad_token="<|endoftext|>", eos_token="<|endoftext|>", model_max_length=32
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def write_planner(root: Path, instructions: list[list[str]], name: str = "planner") -> Path:
    """`root/predicted_instructions/<name>/results.jsonl` with a reference image of its own for each sample."""
    folder = root / "predicted_instructions" / name
    images = root / "datasets" / "images"
    for path in (folder, images):
        path.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, texts in enumerate(instructions):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.png")
        # As the planners write them: the folder is called `datasets` on disk.
        record = {
            "id": number,
            "dataset": "toy",
            "image_paths": [f"dataset/images/{number}.png"],
            "instructions": texts,
        }
        lines.append(json.dumps(record))
    (folder / "results.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "results.jsonl"
