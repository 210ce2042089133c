"""The published architectures as pipelines, for `torch.device("meta")`: their sizes without their weights."""

from collections.abc import Callable
from typing import Any

from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
)

SCHEDULER = FlowMatchEulerDiscreteScheduler(shift=3.0)
SD3_SIZE: dict[str, Any] = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "attention_head_dim": 64,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
    "qk_norm": "rms_norm",
}


def sd35_medium() -> Any:
    transformer = SD3Transformer2DModel(
        **SD3_SIZE, num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=384,
        dual_attention_layers=tuple(range(13)),
    )  # fmt: skip
    return _sd35(transformer)


def sd35_large() -> Any:
    transformer = SD3Transformer2DModel(
        **SD3_SIZE, num_layers=38, num_attention_heads=38, caption_projection_dim=2432, pos_embed_max_size=192
    )
    return _sd35(transformer)


def flux1_dev() -> Any:
    transformer = FluxTransformer2DModel(guidance_embeds=True)  # diffusers' defaults are the published sizes
    encoder = CLIPTextModel(_clip(768, 12))
    return FluxPipeline(SCHEDULER, _vae(), encoder, None, _t5_xxl(), None, transformer)


def flux2_klein_base_4b() -> Any:
    transformer = Flux2Transformer2DModel(
        in_channels=128, num_layers=5, num_single_layers=20, attention_head_dim=128, num_attention_heads=24,
        joint_attention_dim=7680, guidance_embeds=False,
    )  # fmt: skip
    encoder = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=151936, hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32,
            num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
        )
    )  # fmt: skip
    return Flux2KleinPipeline(SCHEDULER, AutoencoderKLFlux2(), encoder, None, transformer)


#: The name on the hub -> what builds it.
FULL_SIZE: dict[str, Callable[[], Any]] = {
    "stabilityai/stable-diffusion-3.5-medium": sd35_medium,
    "stabilityai/stable-diffusion-3.5-large": sd35_large,
    "black-forest-labs/FLUX.1-dev": flux1_dev,
    "black-forest-labs/FLUX.2-klein-base-4B": flux2_klein_base_4b,
}


def _sd35(transformer: Any) -> Any:
    encoders = (CLIPTextModelWithProjection(_clip(768, 12)), CLIPTextModelWithProjection(_clip(1280, 32)))
    return StableDiffusion3Pipeline(
        transformer, SCHEDULER, _vae(), encoders[0], None, encoders[1], None, _t5_xxl(), None
    )


def _clip(width: int, layers: int) -> CLIPTextConfig:
    """CLIP ViT-L/14's text encoder, or OpenCLIP ViT-bigG/14's."""
    return CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=4 * width, projection_dim=width,
        num_hidden_layers=layers, num_attention_heads=width // 64,
    )  # fmt: skip


def _t5_xxl() -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=32128, d_model=4096, d_ff=10240, d_kv=64, num_layers=24, num_heads=64,
            feed_forward_proj="gated-gelu",
        )
    )  # fmt: skip


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=16, use_quant_conv=False,
        use_post_quant_conv=False,
    )  # fmt: skip
