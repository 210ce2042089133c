"""Train the miniature's `AutoencoderKL`: 64 x 64 pictures to 8 x 8 latents of 16 channels, SD3's own shape.

python -m miniature.recipes.vae --output miniature/weights/sd3/vae --minutes 20
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from miniature.prompts import sample_captioned_scene
from miniature.recipes.timed import timed_cosine

KL_WEIGHT = 3e-4


def build_model() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        sample_size=64,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )


def sample_pictures(size: int, rng: np.random.Generator) -> Tensor:
    """(size, 3, 64, 64) float32 in [-1, 1]."""
    pictures = np.stack([sample_captioned_scene(rng).scene.render() for _ in range(size)])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def reconstruction_loss(decoded: Tensor, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """L1 + L2, and L1 of the edges, which would else be blurred; and the mean squared error alone."""
    error = F.mse_loss(decoded, pictures)
    edges = sum(F.l1_loss(decoded.diff(dim=axis), pictures.diff(dim=axis)) for axis in (2, 3))
    return F.l1_loss(decoded, pictures) + error + edges, error


def loss_of(model: AutoencoderKL, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstruction plus weighted KL, and the reconstruction's mean squared error."""
    with torch.autocast("cpu", torch.bfloat16, enabled=model.training):
        posterior = model.encode(pictures).latent_dist
        decoded = model.decode(posterior.sample()).sample.float()
    loss, error = reconstruction_loss(decoded, pictures)
    return loss + KL_WEIGHT * posterior.kl().mean() / 1024, error


def set_latent_statistics(model: AutoencoderKL, pictures: Tensor) -> None:
    """Store shift and scale so that scaled latents have mean 0 and standard deviation 1, as SD3's config does."""
    with torch.no_grad():
        latents = model.encode(pictures).latent_dist.sample()
    model.register_to_config(shift_factor=latents.mean().item(), scaling_factor=1 / latents.std().item())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("miniature/weights/sd3/vae"))
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--start", type=Path, help="go on from these weights instead of from scratch")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)
    model = AutoencoderKL.from_pretrained(args.start) if args.start else build_model()
    model.train()
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
            print(f"step {tick.step} share {tick.share:.3f} PSNR {-10 * np.log10(error.item() / 4):.2f} dB", flush=True)
    model.eval()
    set_latent_statistics(model, sample_pictures(512, rng))
    with torch.no_grad():
        _, error = loss_of(model, sample_pictures(256, np.random.default_rng(10**9)))
    print(f"held-out PSNR: {-10 * np.log10(error.item() / 4):.2f} dB over 256 scenes, {tick.step + 1} steps")
    model.half().save_pretrained(args.output)


if __name__ == "__main__":
    main()
