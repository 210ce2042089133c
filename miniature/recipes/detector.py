"""Train the miniature detector: a tiny `Mask2FormerForUniversalSegmentation` with a Swin backbone, from scratch.

    python -m miniature.recipes.detector --output miniature/weights/detector --minutes 60

Queries start as anchors: query i is placed on cell i of a 6 x 6 grid and, while `--anchored-share` of the time lasts,
is matched to the object whose centre lies in its cell. (Objects of the world never share a cell: they stand at least
12 pixels apart along one axis, and a cell is 64/6 wide.) This gives dense, unambiguous supervision where Hungarian
matching from scratch finds nothing for thousands of steps. Hungarian matching then takes over, and teaches the queries
to agree on who takes an object that lies between two cells.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessorPil,
    SwinConfig,
)

from miniature.glyphs import CLASSES, COLORS
from miniature.recipes.timed import timed_cosine
from miniature.world import IMAGE_SIDE, Scene, sample_scene

GRID = 6
INPUT_SIDE = 128  # the processor enlarges 64 -> 128, as the official detector enlarges 512 -> 800
NO_OBJECT_WEIGHT = 0.2
CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT = 2.0, 5.0, 5.0


@dataclass(frozen=True)
class Batch:
    """Pictures and what is on them.

    Args:
        images: (batch, 64, 64, 3) uint8.
        owners: (objects,) index of the image of each object.
        labels: (objects,) class indices.
        masks: (objects, 64, 64) float in {0, 1}.
        cells: (objects,) cell of the 6 x 6 grid that holds the object's centre.
    """

    images: np.ndarray
    owners: Tensor
    labels: Tensor
    masks: Tensor
    cells: Tensor


def build_model() -> Mask2FormerForUniversalSegmentation:
    """A model of 1.2 M parameters whose queries lie on a grid."""
    swin = SwinConfig(
        image_size=INPUT_SIDE,
        embed_dim=32,
        depths=[1, 1, 2, 1],
        num_heads=[2, 2, 4, 8],
        window_size=8,
        mlp_ratio=2.0,
        drop_path_rate=0.0,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=swin,
        feature_size=64,
        mask_feature_size=64,
        hidden_dim=64,
        encoder_feedforward_dim=128,
        encoder_layers=1,
        decoder_layers=4,
        num_attention_heads=4,
        dim_feedforward=256,
        num_queries=GRID * GRID,
        no_object_weight=NO_OBJECT_WEIGHT,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: index for index, name in enumerate(CLASSES)},
    )
    model = Mask2FormerForUniversalSegmentation(config)
    transformer = model.model.transformer_module
    anchors = transformer.position_embedder((1, 1, GRID, GRID), torch.device("cpu"), torch.float32)
    with torch.no_grad():
        transformer.queries_embedder.weight.copy_(anchors.reshape(1, config.hidden_dim, GRID * GRID)[0].T)
    return model


def build_processor() -> Mask2FormerImageProcessorPil:
    return Mask2FormerImageProcessorPil(
        do_resize=True,
        size={"height": INPUT_SIDE, "width": INPUT_SIDE},
        do_rescale=True,
        do_normalize=True,
        ignore_index=255,
        num_labels=len(CLASSES),
    )


def random_scene(rng: np.random.Generator) -> Scene:
    """One to ten objects; half of the time of one class only, as counting prompts want them. One in 30 is empty."""
    number = 0 if rng.random() < 1 / 30 else int(rng.integers(1, 11))
    only = rng.choice(CLASSES) if rng.random() < 0.5 else None
    return sample_scene([(only or rng.choice(CLASSES), rng.choice(list(COLORS))) for _ in range(number)], rng)


def degrade(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur, noise and contrast as a small generator's decoder adds them; a third stays clean."""
    if rng.random() < 1 / 3:
        return image
    soft = gaussian_filter(image.astype(np.float32), (*[rng.uniform(0.2, 0.8)] * 2, 0))
    coarse = np.kron(rng.normal(0, 1, (16, 16, 3)), np.ones((4, 4, 1)))
    noisy = soft + rng.normal(0, rng.uniform(0, 5), image.shape) + coarse * rng.uniform(0, 5)
    return np.clip((noisy - 128) * rng.uniform(0.85, 1.1) + 128 + rng.uniform(-8, 8), 0, 255).astype(np.uint8)


def sample_batch(size: int, rng: np.random.Generator) -> Batch:
    scenes = [random_scene(rng) for _ in range(size)]
    owned = [(owner, item) for owner, scene in enumerate(scenes) for item in scene.objects]
    centres = [((item.box[1] + item.box[3]) / 2, (item.box[0] + item.box[2]) / 2) for _, item in owned]
    return Batch(
        images=np.stack([degrade(scene.render(), rng) for scene in scenes]),
        owners=torch.tensor([owner for owner, _ in owned]),
        labels=torch.tensor([CLASSES.index(item.class_name) for _, item in owned]),
        masks=torch.from_numpy(np.stack([item.mask for _, item in owned])).float(),
        cells=torch.tensor([int(y * GRID / IMAGE_SIDE) * GRID + int(x * GRID / IMAGE_SIDE) for y, x in centres]),
    )


def preprocess(images: np.ndarray, processor: Mask2FormerImageProcessorPil) -> Tensor:
    return torch.as_tensor(np.stack(processor(list(images), return_tensors="np")["pixel_values"]))


def hungarian(class_logits: Tensor, mask_logits: Tensor, batch: Batch) -> Tensor:
    """Query of each object, (objects,): the assignment that costs least over class, mask and dice."""
    targets = F.avg_pool2d(batch.masks, IMAGE_SIDE // mask_logits.shape[-1]).flatten(1)
    chosen = torch.zeros(len(batch.labels), dtype=torch.long)
    for owner in batch.owners.unique():
        rows = (batch.owners == owner).nonzero()[:, 0]
        logits, wanted = mask_logits[owner].flatten(1), targets[rows]
        bce = (F.softplus(-logits) @ wanted.T + F.softplus(logits) @ (1 - wanted).T) / wanted.shape[1]
        probability = logits.sigmoid()
        overlap = probability @ wanted.T
        dice = 1 - (2 * overlap + 1) / (probability.sum(1)[:, None] + wanted.sum(1)[None] + 1)
        class_cost = -class_logits[owner].softmax(-1)[:, batch.labels[rows]]
        cost = CLASS_WEIGHT * class_cost + MASK_WEIGHT * bce + DICE_WEIGHT * dice
        queries, columns = linear_sum_assignment(cost.numpy())
        chosen[rows[torch.as_tensor(columns)]] = torch.as_tensor(queries)
    return chosen


def layer_loss(class_logits: Tensor, mask_logits: Tensor, batch: Batch, queries: Tensor) -> Tensor:
    """Mask2Former's loss for one decoder layer, masks at full resolution instead of at sampled points."""
    no_object = class_logits.shape[-1] - 1
    wanted = torch.full(class_logits.shape[:2], no_object)
    wanted[batch.owners, queries] = batch.labels
    weights = torch.ones(no_object + 1)
    weights[-1] = NO_OBJECT_WEIGHT
    class_loss = F.cross_entropy(class_logits.transpose(1, 2), wanted, weight=weights)
    logits = mask_logits[batch.owners, queries][:, None]
    logits = F.interpolate(logits, (IMAGE_SIDE, IMAGE_SIDE), mode="bilinear", align_corners=False)[:, 0].flatten(1)
    target = batch.masks.flatten(1)
    bce = F.binary_cross_entropy_with_logits(logits, target)
    probability = logits.sigmoid()
    dice = 1 - (2 * (probability * target).sum(1) + 1) / (probability.sum(1) + target.sum(1) + 1)
    return CLASS_WEIGHT * class_loss + MASK_WEIGHT * bce + DICE_WEIGHT * dice.mean()


def total_loss(model: Mask2FormerForUniversalSegmentation, pixels: Tensor, batch: Batch, anchored: bool) -> Tensor:
    outputs = model(pixel_values=pixels, output_auxiliary_logits=True)
    layers = [(outputs.class_queries_logits, outputs.masks_queries_logits)]
    layers += [(aux["class_queries_logits"], aux["masks_queries_logits"]) for aux in outputs.auxiliary_logits]
    with torch.no_grad():
        queries = batch.cells if anchored else hungarian(*layers[0], batch)
    return torch.stack([layer_loss(classes, masks, batch, queries) for classes, masks in layers]).mean()


@torch.no_grad()
def found_counts(
    model: Mask2FormerForUniversalSegmentation, pixels: Tensor, thresholds: list[float]
) -> dict[float, np.ndarray]:
    """Objects found per class at each threshold: {threshold: (batch, classes) int}, by Mask2Former's own score."""
    outputs = model(pixel_values=pixels)
    probability, labels = outputs.class_queries_logits.softmax(-1)[..., :-1].max(-1)
    masks = F.interpolate(outputs.masks_queries_logits, (IMAGE_SIDE, IMAGE_SIDE), mode="bilinear")
    inside = (masks > 0).float()
    mask_score = (masks.sigmoid() * inside).sum((2, 3)) / (inside.sum((2, 3)) + 1e-6)
    scores = probability * mask_score
    one_hot = F.one_hot(labels, len(CLASSES))
    return {t: (one_hot * (scores > t)[..., None]).sum(1).numpy() for t in thresholds}


def exact_count_rate(
    model: Mask2FormerForUniversalSegmentation, processor: Mask2FormerImageProcessorPil, num_scenes: int, seed: int
) -> dict[float, float]:
    """Share of held-out scenes in which every class is counted exactly, per threshold."""
    model.eval()
    rng = np.random.default_rng(seed)
    thresholds = [round(0.3 + 0.05 * step, 2) for step in range(14)]
    hits = dict.fromkeys(thresholds, 0)
    for start in range(0, num_scenes, 32):
        batch = sample_batch(min(32, num_scenes - start), rng)
        truth = np.zeros((len(batch.images), len(CLASSES)), dtype=int)
        np.add.at(truth, (batch.owners.numpy(), batch.labels.numpy()), 1)
        for threshold, found in found_counts(model, preprocess(batch.images, processor), thresholds).items():
            hits[threshold] += int((found == truth).all(1).sum())
    model.train()
    return {threshold: hit / num_scenes for threshold, hit in hits.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("miniature/weights/detector"))
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--anchored-share", type=float, default=0.5)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--start", type=Path, help="go on from these weights instead of from scratch")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    model, processor = build_model(), build_processor()
    if args.start:
        model = Mask2FormerForUniversalSegmentation.from_pretrained(args.start, dtype=torch.float32)
    model.train()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=1e-4)
    rng = np.random.default_rng(args.seed)
    last_report = 0.0
    for tick in timed_cosine(args.minutes, warm_up_steps=200):
        optimizer.param_groups[0]["lr"] = args.learning_rate * tick.rate
        batch = sample_batch(args.batch, rng)
        loss = total_loss(model, preprocess(batch.images, processor), batch, anchored=tick.share < args.anchored_share)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if tick.step % 50 == 0:
            print(f"step {tick.step} share {tick.share:.3f} loss {loss.item():.4f}", flush=True)
        if time.monotonic() - last_report > 240:
            rates = exact_count_rate(model, processor, 128, seed=10**9)
            print("   exact counts", {t: round(r, 3) for t, r in rates.items()}, flush=True)
            model.save_pretrained(args.output)
            processor.save_pretrained(args.output)
            last_report = time.monotonic()
    print("held-out exact counts:", exact_count_rate(model, processor, 1024, seed=10**9))
    model.half().save_pretrained(args.output)
    processor.save_pretrained(args.output)


if __name__ == "__main__":
    main()
