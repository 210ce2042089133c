"""The published architectures, without their weights: every layer that should get a LoRA gets one."""

from typing import Any

import pytest
import torch
from diffusers import Flux2Transformer2DModel, FluxTransformer2DModel, SD3Transformer2DModel

from generators.flux import FluxGenerator
from generators.flux2_klein_trainable import Flux2KleinTrainable
from generators.lora import add_lora
from generators.sd3 import SD3Generator
from generators.trainable import TrainableGenerator

SD3_SIZE: dict[str, Any] = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "attention_head_dim": 64,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 8,  # of no matter here; the published tables are large
    "qk_norm": "rms_norm",
}


def sd35_medium() -> Any:
    return SD3Transformer2DModel(
        **SD3_SIZE, num_layers=24, num_attention_heads=24, caption_projection_dim=1536,
        dual_attention_layers=tuple(range(13)),
    )  # fmt: skip


def sd35_large() -> Any:
    return SD3Transformer2DModel(**SD3_SIZE, num_layers=38, num_attention_heads=38, caption_projection_dim=2432)


def flux_dev() -> Any:
    return FluxTransformer2DModel(guidance_embeds=True)  # diffusers' defaults are the published sizes


def klein_4b() -> Any:
    return Flux2Transformer2DModel(
        in_channels=128, num_layers=5, num_single_layers=20, attention_head_dim=128, num_attention_heads=24,
        joint_attention_dim=7680, guidance_embeds=False,
    )  # fmt: skip


# Both streams' eight projections in each block; SD3's last block has no output projection for the text, and FLUX.1's
# four feed-forward layers are in; a single block has three projections in FLUX.1 and two fused layers in FLUX.2.
@pytest.mark.parametrize(
    ("build", "generator", "billions", "layers"),
    [
        (sd35_medium, SD3Generator, 2.2, 24 * 8 - 1),
        (sd35_large, SD3Generator, 8.0, 38 * 8 - 1),
        (flux_dev, FluxGenerator, 11.9, 19 * 12 + 38 * 3),
        (klein_4b, Flux2KleinTrainable, 3.9, 5 * 8 + 20 * 2),
    ],
)
def test_layers_with_a_lora(build: Any, generator: type[TrainableGenerator], billions: float, layers: int) -> None:
    with torch.device("meta"):
        transformer = build().requires_grad_(False)
        assert sum(parameter.numel() for parameter in transformer.parameters()) / 1e9 == pytest.approx(
            billions, abs=0.3
        )
        parameters = add_lora(transformer, 32, 64, generator.LORA_TARGETS)
    assert len(parameters) == 2 * layers
    assert all(parameter.requires_grad for parameter in parameters)
