"""Train the miniature's FLUX.2 klein to follow edit instructions on a source picture, by flow matching.

    python -m miniature.recipes.flux2_klein --vae miniature/weights/flux2_klein/vae \
        --output miniature/weights/flux2_klein --minutes 60

A whole `Flux2KleinPipeline` comes out: the given VAE, a small Qwen3 with its tokenizer (trained together with the
transformer), and the real one's scheduler. Tokens, position ids and embeddings are made by the pipeline's functions, so
that training sees what inference sees. No classifier-free guidance: the pipeline says that it is distilled.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import Qwen3Config, Qwen3ForCausalLM

from miniature.editing import sample_edit
from miniature.recipes.fitting import add_fitting_arguments, fit_for_minutes
from miniature.tokenizer import INSTRUCTION_MAX_LENGTH, build_instruction_tokenizer

TEXT_WIDTH, TEXT_LAYERS = 64, 4
TEXT_OUT_LAYERS = (1, 2, 3)  # a quarter, a half, three quarters of the depth, as (9, 18, 27) of the real encoder's 36
HEAD_WIDTH = 32
TOKEN_PIXELS = 8
# Most tokens are plain copies of the source's; those that the edit changes weigh more.
CHANGED_WEIGHT = 6.0
# 64 tokens shift the scheduler's sigmas by exp(1.95) with 4 steps and exp(1.77) with 28: training times lie alike.
TIME_SHIFT = 1.85
UNIFORM_SHARE = 0.15


@dataclass(frozen=True)
class Pool:
    """Encoded edits, or pictures with their captions.

    Args:
        targets: (edits, 64, channels) float16 tokens of what should come out.
        weights: (edits, 64) float32, what a token counts in the loss.
        input_ids, attention_mask: (edits, INSTRUCTION_MAX_LENGTH) of the instructions or captions.
        sources: like `targets`, of the pictures before; None where there are none.
    """

    targets: Tensor
    weights: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    sources: Tensor | None = None


def build_pipeline(vae: AutoencoderKLFlux2, heads: int, double_layers: int, single_layers: int) -> Flux2KleinPipeline:
    tokenizer = build_instruction_tokenizer()
    text = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=TEXT_WIDTH // 4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.1,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    transformer = Flux2Transformer2DModel(
        in_channels=4 * vae.config.latent_channels,
        num_layers=double_layers,
        num_single_layers=single_layers,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=heads,
        joint_attention_dim=TEXT_WIDTH * len(TEXT_OUT_LAYERS),
        timestep_guidance_channels=64,
        axes_dims_rope=(HEAD_WIDTH // 4,) * 4,
        guidance_embeds=False,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256
    )
    return Flux2KleinPipeline(scheduler, vae, Qwen3ForCausalLM(text), tokenizer, transformer, is_distilled=True)


def tokenize(pipeline: Flux2KleinPipeline, instructions: list[str]) -> tuple[Tensor, Tensor]:
    """Ids and mask, (instructions, INSTRUCTION_MAX_LENGTH) each, as the pipeline's `encode_prompt` makes them."""
    texts = [
        pipeline.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        for text in instructions
    ]
    encoded = pipeline.tokenizer(
        texts, return_tensors="pt", padding="max_length", truncation=True, max_length=INSTRUCTION_MAX_LENGTH
    )
    return encoded.input_ids, encoded.attention_mask


def embed(pipeline: Flux2KleinPipeline, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """What `encode_prompt` returns, (batch, INSTRUCTION_MAX_LENGTH, 3 * TEXT_WIDTH), from ids."""
    states = pipeline.text_encoder(
        input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True, use_cache=False
    ).hidden_states
    return torch.cat([states[layer] for layer in TEXT_OUT_LAYERS], dim=-1)


@torch.no_grad()
def encode_pictures(pipeline: Flux2KleinPipeline, pictures: np.ndarray) -> Tensor:
    """(batch, 64, 64, 3) uint8 -> (batch, 64, channels) float16 tokens."""
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.autocast("cpu", torch.bfloat16):
        latents = pipeline._encode_vae_image(pixels, generator=None)
    return pipeline._pack_latents(latents).to(torch.float16)


def changed_tokens(before: np.ndarray, after: np.ndarray) -> Tensor:
    """Two of (batch, 64, 64, 3) uint8 -> (batch, 64) bool: tokens under which a pixel differs."""
    side = before.shape[1] // TOKEN_PIXELS
    differs = (before != after).reshape(len(before), side, TOKEN_PIXELS, side, TOKEN_PIXELS, 3).any((2, 4, 5))
    return torch.from_numpy(differs.reshape(len(before), side * side))


def sample_pool(pipeline: Flux2KleinPipeline, number: int, rng: np.random.Generator) -> Pool:
    """Draw and encode fresh edits."""
    parts: list[tuple[Tensor, ...]] = []
    for start in range(0, number, 64):
        edits = [sample_edit(rng) for _ in range(min(64, number - start))]
        before = np.stack([edit.source.render() for edit in edits])
        after = np.stack([edit.result.render() for edit in edits])
        weights = 1 + (CHANGED_WEIGHT - 1) * changed_tokens(before, after).float()
        ids = tokenize(pipeline, [edit.instruction for edit in edits])
        parts.append((encode_pictures(pipeline, after), weights, *ids, encode_pictures(pipeline, before)))
    return Pool(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def sample_sigmas(number: int) -> Tensor:
    """(number,) noise levels in (0, 1), spread as the shifted schedule's; a share of them evenly."""
    even = torch.rand(number).clamp(1e-4, 1 - 1e-4)
    odds = torch.exp(torch.tensor(TIME_SHIFT)) * even / (1 - even)
    return torch.where(torch.rand(number) < UNIFORM_SHARE, even, odds / (1 + odds))


def flow_matching_loss(
    pipeline: Flux2KleinPipeline, pool: Pool, chosen: Tensor, ids: tuple[Tensor, Tensor], caption_drop: float = 0.0
) -> Tensor:
    """Weighted mean squared error of the predicted velocity (noise - clean) on the target's tokens.

    Args:
        chosen: (batch,) indices into the pool.
        ids: position ids of the text, and of the target and the source if there is one, (tokens, 4) each.
        caption_drop: share of texts replaced by "", for classifier-free guidance.
    """
    clean = pool.targets[chosen].float()
    sigma, noise = sample_sigmas(len(chosen)), torch.randn_like(clean)
    mixed = clean + sigma[:, None, None] * (noise - clean)
    hidden = mixed if pool.sources is None else torch.cat([mixed, pool.sources[chosen].float()], dim=1)
    kept = torch.rand(len(chosen), 1) >= caption_drop
    texts = [
        torch.where(kept, own[chosen], blank)
        for own, blank in zip((pool.input_ids, pool.attention_mask), tokenize(pipeline, [""]), strict=True)
    ]
    # for this few tokens plain matrix products are faster on a CPU than flash attention
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        velocity = pipeline.transformer(
            hidden_states=hidden,
            timestep=sigma,
            encoder_hidden_states=embed(pipeline, *texts),
            txt_ids=ids[0],
            img_ids=ids[1],
            return_dict=False,
        )[0][:, : clean.shape[1]]
    weights = pool.weights[chosen]
    errors = (velocity.float() - (noise - clean)).square().mean(-1)
    return (weights * errors).sum() / weights.sum()


def position_ids(pipeline: Flux2KleinPipeline, num_sources: int = 1) -> tuple[Tensor, Tensor]:
    """Ids of the text, and of target and sources one after the other, by the pipeline's own functions."""
    grid = torch.zeros(1, 1, 8, 8)
    image = pipeline._prepare_latent_ids(grid)
    if num_sources:
        image = torch.cat([image, pipeline._prepare_image_ids([grid] * num_sources)], dim=1)
    return pipeline._prepare_text_ids(torch.zeros(1, INSTRUCTION_MAX_LENGTH, 1))[0], image[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", type=Path, default=Path("miniature/weights/flux2_klein/vae"))
    parser.add_argument("--output", type=Path, default=Path("miniature/weights/flux2_klein"))
    parser.add_argument("--edits", type=int, default=40_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--heads", type=int, default=5)
    parser.add_argument("--double-layers", type=int, default=2)
    parser.add_argument("--single-layers", type=int, default=4)
    add_fitting_arguments(parser, minutes=60, learning_rate=1.2e-3)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)
    rng = np.random.default_rng(args.seed)
    if args.start:
        pipeline = Flux2KleinPipeline.from_pretrained(args.start, dtype=torch.float32)
    else:
        vae = AutoencoderKLFlux2.from_pretrained(args.vae)
        pipeline = build_pipeline(vae, args.heads, args.double_layers, args.single_layers)
    pool, ids = sample_pool(pipeline, args.edits, rng), position_ids(pipeline)
    print(f"encoded {len(pool.targets)} edits, mean weight of a token {pool.weights.mean():.3f}", flush=True)
    if args.compile:
        pipeline.transformer.compile()

    def loss_of(step: int) -> Tensor:
        return flow_matching_loss(pipeline, pool, torch.from_numpy(rng.integers(0, args.edits, args.batch)), ids)

    fit_for_minutes(
        pipeline,
        [pipeline.transformer, pipeline.text_encoder],
        loss_of,
        output=args.output,
        minutes=args.minutes,
        learning_rate=args.learning_rate,
    )


if __name__ == "__main__":
    main()
