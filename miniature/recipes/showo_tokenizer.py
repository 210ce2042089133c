"""Train the miniature's `MAGVITv2`: 64 x 64 pictures to 8 x 8 codes of a few bits each, and back.

    python -m miniature.recipes.showo_tokenizer --output miniature/weights/showo/vq_model --minutes 30

Signs have no gradient: the decoder's goes straight through to the encoder's numbers, which teaches shapes and hardly
any colours. Three things help. Pictures begin as numbers in (-1, 1), and more and more of them go through signs. Codes
are told directly which class and colour stand in their patch (`miniature.recipes.patch_heads`). And objects, which are
a small part of a picture, weigh more. A commitment loss keeps the numbers near -1 and 1.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from generators.showo.magvit import MAGVITv2
from generators.showo.picture_codes import decode_pictures, encode_pictures
from miniature.glyphs import CLASSES
from miniature.prompts import sample_captioned_scene
from miniature.recipes.counted_objects import count_objects
from miniature.recipes.patch_heads import PATCH_PIXELS, SIDE, PatchHeads, patch_labels
from miniature.recipes.timed import timed_cosine
from miniature.recipes.vae import reconstruction_loss
from miniature.world import Scene

COMMITMENT_WEIGHT = 0.05
RELAXED_SHARE = 0.5  # of the training, after which all pictures go through signs
OBJECT_WEIGHT = 4.0  # of the squared error where objects are, over that of the whole picture
PATCH_WEIGHT = 1.5  # of the patches' labels at the beginning; a fifth of it at the end
BACKGROUND_WEIGHT = 0.1
SAVE_EVERY_S = 300
HELD_OUT_SEED = 10**9


def build_model(bits: int, width: int) -> MAGVITv2:
    """Three halvings, so that a code stands for 8 x 8 pixels."""
    return MAGVITv2(
        ch=width,
        encoder_ch_mult=(1, 2, 4, 6),
        encoder_num_res_blocks=(1, 1, 1, 2),
        decoder_ch_mult=(1, 2, 4, 6),
        decoder_num_res_blocks=(1, 1, 2, 2),
        z_channels=bits,
        num_groups=8,
    )


def loss_of(model: MAGVITv2, heads: PatchHeads, scenes: Sequence[Scene], share: float) -> tuple[Tensor, Tensor]:
    """Reconstruction, commitment and the patches' labels together; and the reconstruction's mean squared error.

    Args:
        model: in training mode.
        heads: on the codes' numbers.
        scenes: to draw.
        share: of the training that is over.
    """
    pictures = torch.from_numpy(np.stack([scene.render() for scene in scenes])).permute(0, 3, 1, 2).float() / 127.5 - 1
    patches = torch.from_numpy(np.stack([patch_labels(scene) for scene in scenes]))
    with torch.autocast("cpu", torch.bfloat16):
        numbers = model.encoder(pictures).float()
        goes_through_signs = torch.rand(len(pictures), 1, 1, 1) < share / RELAXED_SHARE
        codes = torch.where(goes_through_signs, model.quantize.straight_through(numbers), numbers.tanh())
        decoded = model.decoder(codes).float()
    loss, error = reconstruction_loss(decoded, pictures)
    on_objects = (patches[:, 0] > 0).reshape(-1, 1, SIDE, SIDE).float()
    on_objects = on_objects.repeat_interleave(PATCH_PIXELS, 2).repeat_interleave(PATCH_PIXELS, 3)
    of_objects = ((decoded - pictures) ** 2 * on_objects).mean()
    commitment = F.mse_loss(numbers, torch.where(numbers > 0, 1.0, -1.0))
    told = heads.loss(codes.flatten(2).movedim(1, 2), patches)
    weight = PATCH_WEIGHT * (1 - 0.8 * share)
    return loss + OBJECT_WEIGHT * of_objects + COMMITMENT_WEIGHT * commitment + weight * told, error


def held_out_quality(model: MAGVITv2, number: int) -> dict[str, float]:
    """On scenes that training never draws: PSNR in dB, share of scenes whose objects all survive, of codes that occur.

    "survive": the detector counts every class right in the decoded picture; `exact_before` is that of the originals.
    """
    rng = np.random.default_rng(HELD_OUT_SEED)
    scenes = [sample_captioned_scene(rng).scene for _ in range(number)]
    pictures = [scene.render() for scene in scenes]
    codes = torch.cat([encode_pictures(model, pictures[start : start + 64]) for start in range(0, number, 64)])
    decoded = [picture for part in codes.split(64) for picture in decode_pictures(model, part)]
    error = np.mean((np.stack(pictures).astype(float) - np.stack(decoded)) ** 2)
    truth = np.stack([_true_counts(scene) for scene in scenes])
    return {
        "psnr_db": float(10 * np.log10(255**2 / error)),
        "exact_before": float((count_objects(pictures) == truth).all(1).mean()),
        "exact_after": float((count_objects(decoded) == truth).all(1).mean()),
        "codes_used": len(codes.unique()) / model.codebook_size,
    }


def _true_counts(scene: Scene) -> np.ndarray:
    return np.array([sum(item.class_name == name for item in scene.objects) for name in CLASSES])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("miniature/weights/showo/vq_model"))
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--bits", type=int, default=12, help="of a code; the codebook has 2 ** bits")
    parser.add_argument("--width", type=int, default=16, help="channels at full size, a multiple of 8")
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--held-out", type=int, default=256, help="scenes to measure on")
    parser.add_argument("--start", type=Path, help="go on from these weights instead of from scratch")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)
    model = MAGVITv2.from_pretrained(args.start) if args.start else build_model(args.bits, args.width)
    model.train()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {model.codebook_size} codes", flush=True)
    heads = PatchHeads(model.quantize.embedding.shape[1], BACKGROUND_WEIGHT)
    parameters = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, betas=(0.9, 0.98), weight_decay=1e-4)
    rng, saved = np.random.default_rng(args.seed), time.monotonic()
    for tick in timed_cosine(args.minutes, warm_up_steps=100, floor=0.01):
        optimizer.param_groups[0]["lr"] = args.learning_rate * tick.rate
        scenes = [sample_captioned_scene(rng).scene for _ in range(args.batch)]
        loss, error = loss_of(model, heads, scenes, tick.share)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if tick.step % 100 == 0:
            print(f"step {tick.step} share {tick.share:.3f} PSNR {-10 * np.log10(error.item() / 4):.2f} dB", flush=True)
        if time.monotonic() - saved > SAVE_EVERY_S:
            model.save_pretrained(args.output)
            saved = time.monotonic()
    model.eval().half().save_pretrained(args.output)
    quality = held_out_quality(MAGVITv2.from_pretrained(args.output), args.held_out)
    print(f"saved after {tick.step + 1} steps; held-out:", {name: round(value, 4) for name, value in quality.items()})


if __name__ == "__main__":
    main()
