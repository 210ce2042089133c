"""Train the miniature's FLUX.1-class generator on the world by flow matching.

    python -m miniature.recipes.flux --output miniature/weights/flux --minutes 46 --compile

A whole `FluxPipeline` comes out: SD3's miniature VAE, a small CLIP (its pooled output) and a small T5 (its tokens) with
their tokenizers, trained together with the transformer, and FLUX.1-dev's scheduler. As in FLUX.1-dev the transformer
takes the guidance scale as a number; here it is drawn at random for every sample, independent of the picture, so that
any value from 1 to 5 gives the same good picture. Prompts are encoded by the pipeline's own `encode_prompt`.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from miniature.recipes.fitting import add_fitting_arguments, fit_for_minutes
from miniature.recipes.generator import CAPTION_DROP, encode_scenes
from miniature.tokenizer import MAX_LENGTH, build_t5_tokenizer, build_tokenizer

TEXT_WIDTH, TEXT_LAYERS = 64, 3
HEAD_WIDTH = 32
LATENT_SIDE = 8  # of the VAE's latents; two by two of them are one token
GUIDANCE_RANGE = (1.0, 5.0)


def build_pipeline(vae: AutoencoderKL, heads: int, double_layers: int, single_layers: int) -> FluxPipeline:
    tokenizer, t5_tokenizer = build_tokenizer(), build_t5_tokenizer()
    clip = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    t5 = T5Config(
        vocab_size=len(t5_tokenizer),
        d_model=TEXT_WIDTH,
        d_kv=TEXT_WIDTH // 4,
        d_ff=2 * TEXT_WIDTH,
        num_layers=TEXT_LAYERS,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    transformer = FluxTransformer2DModel(
        in_channels=4 * vae.config.latent_channels,
        num_layers=double_layers,
        num_single_layers=single_layers,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=heads,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 14, 14),  # FLUX.1's shares of the head width
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return FluxPipeline(scheduler, vae, CLIPTextModel(clip), tokenizer, T5EncoderModel(t5), t5_tokenizer, transformer)


def pack(latents: Tensor) -> Tensor:
    """(batch, channels, 8, 8) -> (batch, 16, 4 * channels) tokens, by the pipeline's own function."""
    return FluxPipeline._pack_latents(latents, *latents.shape)


def encode_captions(pipeline: FluxPipeline, captions: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (captions, MAX_LENGTH, width), pooled (captions, width) and text ids; equal captions are encoded once."""
    places = {caption: place for place, caption in enumerate(dict.fromkeys(captions))}
    tokens, pooled, ids = pipeline.encode_prompt(list(places), max_sequence_length=MAX_LENGTH)
    rows = torch.tensor([places[caption] for caption in captions])
    return tokens[rows], pooled[rows], ids


def sample_sigmas(number: int) -> Tensor:
    """(number,) noise levels in (0, 1), half logit-normal, half even, shifted as the pipeline's schedule is."""
    u = torch.where(torch.rand(number) < 0.5, torch.randn(number).sigmoid(), torch.rand(number).clamp(1e-4, 1 - 1e-4))
    shift = math.exp(calculate_shift((LATENT_SIDE // 2) ** 2))
    return shift * u / (1 + (shift - 1) * u)


def flow_matching_loss(pipeline: FluxPipeline, clean: Tensor, captions: list[str]) -> Tensor:
    """Mean squared error of the predicted velocity (noise - clean) on tokens `clean` (batch, 16, channels)."""
    number, side = len(clean), LATENT_SIDE // 2
    sigma, noise = sample_sigmas(number), torch.randn_like(clean)
    tokens, pooled, text_ids = encode_captions(pipeline, captions)
    # for this few tokens plain matrix products are faster on a CPU than flash attention
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        velocity = pipeline.transformer(
            hidden_states=clean + sigma[:, None, None] * (noise - clean),
            timestep=sigma,
            guidance=torch.empty(number).uniform_(*GUIDANCE_RANGE),
            pooled_projections=pooled,
            encoder_hidden_states=tokens,
            txt_ids=text_ids,
            img_ids=pipeline._prepare_latent_image_ids(number, side, side, clean.device, clean.dtype),
            return_dict=False,
        )[0]
    return F.mse_loss(velocity.float(), noise - clean)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", type=Path, default=Path("miniature/weights/sd3/vae"))
    parser.add_argument("--output", type=Path, default=Path("miniature/weights/flux"))
    parser.add_argument("--scenes", type=int, default=40_000)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--double-layers", type=int, default=2)
    parser.add_argument("--single-layers", type=int, default=5)
    add_fitting_arguments(parser, minutes=45, learning_rate=1.2e-3)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)
    rng = np.random.default_rng(args.seed)
    vae = AutoencoderKL.from_pretrained(args.vae, torch_dtype=torch.float32)
    pipeline = build_pipeline(vae, args.heads, args.double_layers, args.single_layers)
    if args.start:
        pipeline = FluxPipeline.from_pretrained(args.start, dtype=torch.float32)
    latents, captions = encode_scenes(vae, args.scenes, rng)
    tokens = pack(latents)
    print(f"encoded {len(tokens)} scenes, mean {tokens.mean():.3f}, deviation {tokens.std():.3f}", flush=True)
    if args.compile:
        pipeline.transformer.compile()

    def loss_of(step: int) -> Tensor:
        chosen = rng.integers(0, len(tokens), args.batch)
        texts = ["" if rng.random() < CAPTION_DROP else captions[index] for index in chosen]
        return flow_matching_loss(pipeline, tokens[chosen], texts)

    fit_for_minutes(
        pipeline,
        [pipeline.transformer, pipeline.text_encoder, pipeline.text_encoder_2],
        loss_of,
        output=args.output,
        minutes=args.minutes,
        learning_rate=args.learning_rate,
    )


if __name__ == "__main__":
    main()
