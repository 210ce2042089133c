"""Train the miniature's `CLIPModel` to name the colour of a masked object crop, with GenEval's own captions.

    python -m miniature.recipes.clip --output miniature/weights/clip --minutes 8

Crops are made as GenEval makes them: the object's box, everything outside its mask on #999999.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

from miniature.glyphs import CLASSES, COLORS
from miniature.recipes.detector import degrade
from miniature.recipes.timed import timed_cosine
from miniature.tokenizer import MAX_LENGTH, build_tokenizer
from miniature.world import sample_scene

TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")
GREY = 0x99


def build_model() -> tuple[CLIPModel, CLIPProcessor]:
    tokenizer = build_tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_LENGTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return model, CLIPProcessor(image_processor=images, tokenizer=tokenizer)


def sample_crops(size: int, rng: np.random.Generator) -> tuple[list[Image.Image], list[int], list[int]]:
    """Masked crops with their colour and class indices. Masks are grown or shrunk a little, as a detector's are."""
    crops: list[Image.Image] = []
    colors: list[int] = []
    classes: list[int] = []
    while len(crops) < size:
        labels = [(str(rng.choice(CLASSES)), str(rng.choice(list(COLORS)))) for _ in range(int(rng.integers(1, 9)))]
        scene = sample_scene(labels, rng)
        picture = degrade(scene.render(), rng)
        for item in scene.objects:
            shift = tuple(rng.integers(-1, 2, 2)) if rng.random() < 0.5 else (0, 0)
            mask = np.roll(item.mask, shift, (0, 1)) if rng.random() < 0.9 else np.ones_like(item.mask)
            x1, y1, x2, y2 = item.box
            crop = np.where(mask[..., None], picture, np.uint8(GREY))[y1:y2, x1:x2]
            crops.append(Image.fromarray(crop))
            colors.append(list(COLORS).index(item.color))
            classes.append(CLASSES.index(item.class_name))
    return crops[:size], colors[:size], classes[:size]


def caption_loss(
    model: CLIPModel, processor: CLIPProcessor, crops: list[Image.Image], colors: Tensor, classes: Tensor, template: str
) -> Tensor:
    """Cross-entropy of each crop over the captions of all colours (and classes, where the template names one)."""
    names = CLASSES if "{name}" in template else ("",)
    captions = [template.format(color=color, name=name) for name in names for color in COLORS]
    inputs = processor(text=captions, images=crops, return_tensors="pt", padding="max_length")
    wanted = colors + len(COLORS) * classes if len(names) > 1 else colors
    return F.cross_entropy(model(**inputs).logits_per_image, wanted)


@torch.no_grad()
def color_accuracy(model: CLIPModel, processor: CLIPProcessor, num_crops: int, seed: int) -> float:
    """Share of held-out crops whose colour is right by the template without class names."""
    crops, colors, _ = sample_crops(num_crops, np.random.default_rng(seed))
    captions = [TEMPLATES[2].format(color=color) for color in COLORS]
    inputs = processor(text=captions, images=crops, return_tensors="pt", padding="max_length")
    return (model(**inputs).logits_per_image.argmax(1) == torch.tensor(colors)).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("miniature/weights/clip"))
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    model, processor = build_model()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=1e-3)
    rng = np.random.default_rng(args.seed)
    for tick in timed_cosine(args.minutes, warm_up_steps=50):
        optimizer.param_groups[0]["lr"] = args.learning_rate * tick.rate
        crops, colors, classes = sample_crops(args.batch, rng)
        template = TEMPLATES[tick.step % len(TEMPLATES)]
        loss = caption_loss(model, processor, crops, torch.tensor(colors), torch.tensor(classes), template)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if tick.step % 100 == 0:
            print(f"step {tick.step} share {tick.share:.3f} loss {loss.item():.4f}", flush=True)
    print(f"held-out colour accuracy: {color_accuracy(model, processor, 2000, seed=10**9):.4f} over 2000 crops")
    model.half().save_pretrained(args.output)
    processor.save_pretrained(args.output)


if __name__ == "__main__":
    main()
