"""Train the miniature's `AutoencoderKLFlux2`: 64 x 64 pictures to 16 x 16 latents of 8 channels.

    python -m miniature.recipes.flux2_vae --output miniature/weights/flux2_klein/vae --minutes 15

The pipeline packs 2 x 2 latents into one token of 32 numbers, which stands for 8 x 8 pixels, and normalises tokens by
the statistics that the model keeps in its batch norm; they are measured here after training.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline
from torch import Tensor

from miniature.prompts import sample_captioned_scene
from miniature.recipes.detector import random_scene
from miniature.recipes.timed import timed_cosine
from miniature.recipes.vae import loss_of


def build_model() -> AutoencoderKLFlux2:
    return AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )


def sample_pictures(size: int, rng: np.random.Generator) -> Tensor:
    """(size, 3, 64, 64) float32 in [-1, 1]: tidy scenes and those of free sizes and places, half of each."""
    scenes = [random_scene(rng) if rng.random() < 0.5 else sample_captioned_scene(rng).scene for _ in range(size)]
    return torch.from_numpy(np.stack([scene.render() for scene in scenes])).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def set_token_statistics(model: AutoencoderKLFlux2, pictures: Tensor) -> None:
    """Store mean and variance of each of a token's 32 numbers, so that the pipeline's tokens are standardised."""
    tokens = Flux2KleinPipeline._patchify_latents(model.encode(pictures).latent_dist.mode())
    model.bn.running_mean.copy_(tokens.mean((0, 2, 3)))
    model.bn.running_var.copy_(tokens.var((0, 2, 3)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("miniature/weights/flux2_klein/vae"))
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)
    model = build_model().train()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=1e-4)
    rng = np.random.default_rng(args.seed)
    for tick in timed_cosine(args.minutes, warm_up_steps=100):
        optimizer.param_groups[0]["lr"] = args.learning_rate * tick.rate
        loss, error = loss_of(model, sample_pictures(args.batch, rng))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if tick.step % 100 == 0:
            psnr = -10 * np.log10(error.item() / 4)
            print(f"step {tick.step} share {tick.share:.3f} PSNR {psnr:.2f} dB", flush=True)
    model.eval()
    set_token_statistics(model, sample_pictures(1024, rng))
    with torch.no_grad():
        _, error = loss_of(model, sample_pictures(256, np.random.default_rng(10**9)))
    print(f"held-out PSNR: {-10 * np.log10(error.item() / 4):.2f} dB over 256 scenes, {tick.step + 1} steps")
    model.half().save_pretrained(args.output)


if __name__ == "__main__":
    main()
