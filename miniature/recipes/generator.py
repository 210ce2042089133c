"""Train the miniature's SD3-class generator on the world by flow matching: the cold start for reinforcement.

    python -m miniature.recipes.generator --vae miniature/weights/sd3/vae --output miniature/weights/sd3 --minutes 45

A whole `StableDiffusion3Pipeline` comes out: the given VAE, two small CLIP text encoders with their tokenizer (trained
together with the transformer), no T5, and a flow-matching scheduler. Prompts are encoded by the pipeline's own
`encode_prompt`.
"""

import argparse
import copy
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from generators.sd3 import load_pipeline
from miniature.prompts import sample_captioned_scene
from miniature.recipes.timed import timed_cosine
from miniature.tokenizer import MAX_LENGTH, build_tokenizer

TEXT_WIDTH = 64
CAPTION_DROP = 0.1  # share of captions replaced by "", so that classifier-free guidance works
# The pipeline fills the place of the missing T5 with `max_sequence_length` zero tokens (256 unless told otherwise).
# Most steps train without any; one in sixteen trains a small batch with all, so that a plain `pipe(prompt)` works too.
T5_TOKENS, T5_EVERY = 256, 16
EMA_DECAY = 0.999


def build_pipeline(vae: AutoencoderKL, width: int, num_layers: int, patch_size: int) -> StableDiffusion3Pipeline:
    tokenizer = build_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=3,  # SD3 reads the last layer but one
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=patch_size,
        in_channels=vae.config.latent_channels,
        out_channels=vae.config.latent_channels,
        num_layers=num_layers,
        attention_head_dim=32,
        num_attention_heads=width // 32,
        caption_projection_dim=width,
        joint_attention_dim=2 * TEXT_WIDTH,
        pooled_projection_dim=2 * TEXT_WIDTH,
        pos_embed_max_size=8 // patch_size,
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=vae,
        text_encoder=CLIPTextModelWithProjection(text),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(text),
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )


@torch.no_grad()
def encode_scenes(vae: AutoencoderKL, number: int, rng: np.random.Generator) -> tuple[Tensor, list[str]]:
    """Scaled latents (number, 16, 8, 8) float32 of fresh scenes, and their captions."""
    latents: list[Tensor] = []
    captions: list[str] = []
    for start in range(0, number, 64):
        drawn = [sample_captioned_scene(rng) for _ in range(min(64, number - start))]
        pictures = torch.from_numpy(np.stack([item.scene.render() for item in drawn])).permute(0, 3, 1, 2) / 127.5 - 1
        encoded = vae.encode(pictures).latent_dist.mode()
        latents.append((encoded - vae.config.shift_factor) * vae.config.scaling_factor)
        captions += [item.metadata["prompt"] for item in drawn]
    return torch.cat(latents).contiguous(), captions


def encode_captions(pipeline: StableDiffusion3Pipeline, captions: list[str], t5_tokens: int) -> tuple[Tensor, Tensor]:
    embeds, _, pooled, _ = pipeline.encode_prompt(
        prompt=captions,
        prompt_2=None,
        prompt_3=None,
        do_classifier_free_guidance=False,
        max_sequence_length=t5_tokens,
    )
    return embeds, pooled


def flow_matching_loss(
    pipeline: StableDiffusion3Pipeline, clean: Tensor, captions: list[str], t5_tokens: int
) -> Tensor:
    """Mean squared error of the predicted velocity (noise - clean); half of the times logit-normal, half uniform."""
    number = len(clean)
    sigma = torch.where(torch.rand(number) < 0.5, torch.randn(number).sigmoid(), torch.rand(number))
    noise = torch.randn_like(clean)
    mixed = clean + sigma[:, None, None, None] * (noise - clean)
    embeds, pooled = encode_captions(pipeline, captions, t5_tokens)
    with torch.autocast("cpu", torch.bfloat16):
        velocity = pipeline.transformer(
            hidden_states=mixed,
            timestep=1000 * sigma,
            encoder_hidden_states=embeds,
            pooled_projections=pooled,
            return_dict=False,
        )[0]
    return F.mse_loss(velocity.float(), noise - clean)


class Averaged:
    """Exponential moving average of modules' parameters; `copy_to_modules` puts the averages in place."""

    def __init__(self, modules: list[torch.nn.Module]) -> None:
        self._live: list[Tensor] = [p for module in modules for p in module.parameters()]
        self._mean = [copy.deepcopy(p.detach()) for p in self._live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._mean, self._live, 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        for mean, live in zip(self._mean, self._live, strict=True):
            kept = live.clone()
            live.copy_(mean)
            mean.copy_(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", type=Path, default=Path("miniature/weights/sd3/vae"))
    parser.add_argument("--output", type=Path, default=Path("miniature/weights/sd3"))
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--scenes", type=int, default=40_000)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--patch-size", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--start", type=Path, help="go on from this pipeline instead of from scratch")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)
    rng = np.random.default_rng(args.seed)
    vae = AutoencoderKL.from_pretrained(args.vae)
    pipeline = build_pipeline(vae, args.width, args.layers, args.patch_size)
    if args.start:
        pipeline = load_pipeline(str(args.start))
    trained = [pipeline.transformer, pipeline.text_encoder, pipeline.text_encoder_2]
    parameters = [p for module in trained for p in module.parameters()]
    print(f"{sum(p.numel() for p in parameters):,} parameters", flush=True)
    latents, captions = encode_scenes(vae, args.scenes, rng)
    print(f"encoded {len(latents)} scenes, mean {latents.mean():.3f}, deviation {latents.std():.3f}", flush=True)

    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, betas=(0.9, 0.99), weight_decay=1e-3)
    averaged = Averaged(trained)
    smooth, saved = 1.0, time.monotonic()
    for tick in timed_cosine(args.minutes, warm_up_steps=200, floor=0.02):
        optimizer.param_groups[0]["lr"] = args.learning_rate * tick.rate
        long = tick.step % T5_EVERY == 0
        chosen = rng.integers(0, len(latents), args.batch // 8 if long else args.batch)
        texts = ["" if rng.random() < CAPTION_DROP else captions[index] for index in chosen]
        loss = flow_matching_loss(pipeline, latents[chosen], texts, T5_TOKENS if long else 0)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        averaged.update(tick.step)
        smooth += 0.01 * (loss.item() - smooth)
        if tick.step % 100 == 0:
            print(f"step {tick.step} share {tick.share:.3f} loss {smooth:.4f}", flush=True)
        if time.monotonic() - saved > 300:
            averaged.swap()
            pipeline.save_pretrained(args.output)
            averaged.swap()
            saved = time.monotonic()
    averaged.swap()
    pipeline.to(torch.float16).save_pretrained(args.output)
    print(f"saved after {tick.step + 1} steps, loss {smooth:.4f}")


if __name__ == "__main__":
    main()
