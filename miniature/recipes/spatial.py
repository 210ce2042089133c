"""Pretrain the miniature's spatial judge: it points, compares two views, and judges relations; the x3 questions it has
never seen.

    python -m miniature.recipes.spatial --output miniature/weights/spatial_zero_shot --minutes 60

Each picture or pair comes with a few questions and their answers (`miniature.recipes.spatial_questions`) in one
conversation, of which the answers alone are learnt. Beside them the vision tower is told what stands in each patch
(class, colour, where the middle is, what is tinted) and in which row and column it is; and the language model, at each
patch of the query view, whether the object in question is there, for it has seen the reference by then, and at each
token of a point, in which row and column that is; of a single picture, also at each object that a question names.
Without that, a small model would have to find out from a dozen digits that two pictures are to be compared: an hour in,
it knew where the object was, and could not say it.

What comes of it is "zero-shot": `assay spatial build` makes questions of the x3 tasks from `python -m miniature.x3`,
and fine-tuning teaches their wording.
"""

import argparse
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForImageTextToText, AutoProcessor

from miniature.glyphs import CLASSES, COLORS
from miniature.recipes.spatial_examples import SIDE, Example, draw_examples
from miniature.recipes.spatial_measures import measure
from miniature.recipes.spatial_questions import texts
from miniature.recipes.timed import timed_cosine
from miniature.recipes.world_words import world_words
from miniature.vlm import build_vlm, save_vlm
from pipelines.spatial_tasks.building.prompts import CONCATENATED, CORRESPONDENCE, DIFFERENCE

IGNORED = -100
NOISE_LEVELS = 8.0  # of 255


@dataclass(frozen=True)
class Batch:
    """What a step learns from.

    Args:
        inputs: of the model.
        labels: (batch, length), -100 where no answer stands.
        patches: (pictures, 4, 64): class, colour, middle and tint of each patch of each picture.
        wanted: (batch, length): at the places of a query view's patches 1 where the object in question is, else 0;
            -100 everywhere else.
        cells: (batch, length, 2): at the tokens of a point the row and the column of its patch; else -100.
        named: (batch, length, 2): where a question about a single picture names an object, and there is one only, the
            row and the column of its middle; else -100.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    patches: Tensor
    wanted: Tensor
    cells: Tensor
    named: Tensor


class Heads(nn.Module):
    """What the vision tower and the language model are asked directly; thrown away after pretraining."""

    def __init__(self, vision_width: int, width: int) -> None:
        super().__init__()
        self.sizes = (len(CLASSES) + 1, len(COLORS) + 1, 2, 2, SIDE, SIDE)
        self.tower = nn.Linear(vision_width, sum(self.sizes))
        self.language = nn.Linear(width, 2)
        self.cells, self.named = (nn.Linear(width, 2 * SIDE) for _ in range(2))

    def patch_loss(self, features: Tensor, patches: Tensor) -> Tensor:
        """Mean cross-entropy of all four, and of the patches' own rows and columns.

        Args:
            features: (pictures, 64, vision width).
            patches: (pictures, 4, 64).
        """
        places = torch.arange(SIDE**2)
        own = torch.stack([places // SIDE, places % SIDE]).expand(len(patches), -1, -1)
        patches = torch.cat([patches, own], 1)
        parts = self.tower(features).split(self.sizes, dim=-1)
        losses = [F.cross_entropy(part.flatten(0, 1), patches[:, n].flatten()) for n, part in enumerate(parts)]
        return torch.stack(losses).mean()

    def wanted_loss(self, hidden: Tensor, wanted: Tensor) -> Tensor:
        """Mean cross-entropy; patches that hold the object weigh four times as much, for they are few.

        Args:
            hidden: (batch, length, width) of the language model.
            wanted: (batch, length), -100 where no patch of a query stands; without any, the loss is 0.
        """
        chosen = wanted != IGNORED
        if not chosen.any():
            return hidden.new_zeros(())
        weights = torch.tensor([1.0, 4.0])
        return F.cross_entropy(self.language(hidden[chosen]).float(), wanted[chosen], weight=weights)

    def cell_loss(self, head: nn.Linear, hidden: Tensor, cells: Tensor) -> Tensor:
        """Mean cross-entropy of rows and columns.

        Args:
            head: `cells` or `named`.
            hidden: (batch, length, width) of the language model.
            cells: (batch, length, 2), -100 where there is none; without any, the loss is 0.
        """
        chosen = cells[..., 0] != IGNORED
        if not chosen.any():
            return hidden.new_zeros(())
        said = head(hidden[chosen]).float().unflatten(-1, (2, SIDE))
        return F.cross_entropy(said.flatten(0, 1), cells[chosen].flatten())


def make_batch(processor: Any, examples: Sequence[Example], rng: np.random.Generator) -> Batch:
    """Pictures with noise, and conversations about them."""
    rows = [_tokens(processor, example) for example in examples]
    length = max(len(ids) for ids, *_ in rows)
    ids = torch.full((len(rows), length), processor.tokenizer.pad_token_id)
    labels, wanted = (torch.full((len(rows), length), IGNORED) for _ in range(2))
    cells, named = (torch.full((len(rows), length, 2), IGNORED) for _ in range(2))
    mask = torch.zeros((len(rows), length), dtype=torch.int64)
    words = world_words(processor.tokenizer)
    for row, ((tokens, learnt, sought, places), example) in enumerate(zip(rows, examples, strict=True)):
        ids[row, : len(tokens)], labels[row, : len(tokens)] = torch.tensor(tokens), torch.tensor(learnt)
        wanted[row, : len(tokens)], mask[row, : len(tokens)] = torch.tensor(sought), 1
        cells[row, : len(tokens)] = torch.tensor(places)
        if len(example.pictures) == 1:
            named[row, : len(tokens)] = torch.tensor(named_cells(tokens, learnt, words, example))
    pixels = np.concatenate([example.pictures for example in examples]).astype(np.float32)
    levels = rng.uniform(0, NOISE_LEVELS, (len(pixels), 1, 1, 1)).astype(np.float32)
    pixels += levels * rng.standard_normal(pixels.shape, dtype=np.float32)
    values = torch.from_numpy(pixels.clip(0, 255) / 127.5 - 1).permute(0, 3, 1, 2)  # as the processor does
    inputs = {"input_ids": ids, "attention_mask": mask, "pixel_values": values}
    patches = torch.from_numpy(np.concatenate([example.patches for example in examples]).astype(np.int64))
    return Batch(inputs, labels, patches, wanted, cells, named)


def _tokens(processor: Any, example: Example) -> tuple[list[int], list[int], list[int], list[tuple[int, int]]]:
    """Ids, labels, what is sought at each place, and which cell is said there.

    An image's mark becomes as many as it has patches.
    """
    pieces, image = example.conversation(), processor.image_token_id
    ids: list[int] = []
    labels: list[int] = []
    cells: list[tuple[int, int]] = []
    all_tokens = processor.tokenizer([text for text, _ in pieces]).input_ids
    for tokens, (text, is_learnt) in zip(all_tokens, pieces, strict=True):
        expanded = [one for token in tokens for one in [token] * (SIDE**2 if token == image else 1)]
        ids += expanded
        labels += expanded if is_learnt else [IGNORED] * len(expanded)
        cells += [cell_of(text) if is_learnt else (IGNORED, IGNORED)] * len(expanded)
    sought = [IGNORED] * len(ids)
    if example.wanted is not None:
        last = [place for place, token in enumerate(ids) if token == image][-(SIDE**2) :]
        for place, there in zip(last, example.wanted, strict=True):
            sought[place] = int(there)
    return ids, labels, sought, cells


def cell_of(answer: str) -> tuple[int, int]:
    """Row and column of the patch that a point is in; -100 both if the answer is no point."""
    found = re.match(r"\[\(([\d.]+), ([\d.]+)\)\]", answer)
    if found is None:
        return IGNORED, IGNORED
    column, row = (min(int(float(number) * SIDE), SIDE - 1) for number in found.groups())
    return row, column


def named_cells(
    tokens: Sequence[int], learnt: Sequence[int], words: dict[int, str], example: Example
) -> list[tuple[int, int]]:
    """Row and column of the one object that each class in a question stands for, of the colour before it, if any."""
    names, colors, middles, _ = example.patches[0]
    found = [(IGNORED, IGNORED)] * len(tokens)
    for place, token in enumerate(tokens):
        if learnt[place] == IGNORED and (name := words.get(token)) in CLASSES:
            is_it = (names == CLASSES.index(name) + 1) & (middles == 1)
            if (color := words.get(tokens[place - 1])) in COLORS:
                is_it &= colors == list(COLORS).index(color) + 1
            if is_it.sum() == 1:
                found[place] = divmod(int(is_it.argmax()), SIDE)
    return found


def losses_of(model: Any, heads: Heads, batch: Batch) -> tuple[Tensor, ...]:
    """Mean cross-entropy of the answers' tokens, of the patches, of where the object in question is, of the cells that
    are said, and of those of named objects.

    Where it is must be known halfway up: what a patch knows only at the top, no answer can look at.
    """
    # for this few tokens plain matrix products are faster on a CPU than flash attention
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        features: list[Tensor] = []
        hook = model.get_encoder(modality="image").register_forward_hook(
            lambda module, inputs, output: features.append(output.last_hidden_state)
        )
        layers = model.model(**batch.inputs, output_hidden_states=True).hidden_states
        hook.remove()
        hidden, halfway = layers[-1], layers[len(layers) // 2]
        learnt = batch.labels[:, 1:] != IGNORED
        said = F.cross_entropy(model.lm_head(hidden[:, :-1][learnt]).float(), batch.labels[:, 1:][learnt])
        seen, wanted = heads.patch_loss(features[0], batch.patches), heads.wanted_loss(halfway, batch.wanted)
        said_cells = heads.cell_loss(heads.cells, hidden, batch.cells)
        return said, seen, wanted, said_cells, heads.cell_loss(heads.named, halfway, batch.named)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("miniature/weights/spatial_zero_shot"))
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--examples", type=int, default=16_000, help="drawn before training begins")
    parser.add_argument("--held-out", type=int, default=100, help="questions of each kind, afterwards")
    parser.add_argument("--start", type=Path, help="go on from this model instead of from scratch")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.set_flush_denormal(True)
    rng = np.random.default_rng(args.seed)
    # The x3 tasks' words are one token each, too; what they mean remains to be learnt.
    if args.start:
        model = AutoModelForImageTextToText.from_pretrained(args.start, dtype=torch.float32)
        processor = AutoProcessor.from_pretrained(args.start)
    else:
        model, processor = build_vlm([*texts(), CORRESPONDENCE, CONCATENATED, DIFFERENCE], seed=args.seed)
    heads = Heads(model.config.vision_config.hidden_size, model.config.text_config.hidden_size)
    parameters = [*model.train().parameters(), *heads.parameters()]
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters", flush=True)
    began = time.monotonic()
    examples = list(draw_examples(args.examples, rng))
    print(f"drew {len(examples)} examples in {time.monotonic() - began:.0f} s", flush=True)
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, betas=(0.9, 0.98), weight_decay=1e-3, fused=True)
    smooth = [6.0, 1.0, 0.7, 2.0, 2.0]
    for tick in timed_cosine(args.minutes, warm_up_steps=100, floor=0.02):
        optimizer.param_groups[0]["lr"] = args.learning_rate * tick.rate
        chosen = [examples[n] for n in rng.integers(0, len(examples), args.batch)]
        losses = losses_of(model, heads, make_batch(processor, chosen, rng))
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        smooth = [old + 0.03 * (new.item() - old) for old, new in zip(smooth, losses, strict=True)]
        if tick.step % 20 == 0:
            names = ("answers", "patches", "wanted", "cells", "named")
            said = " ".join(f"{name} {loss:.4f}" for name, loss in zip(names, smooth, strict=True))
            print(f"step {tick.step} share {tick.share:.3f} {said}", flush=True)
    save_vlm(args.output, model, processor)
    loaded = AutoModelForImageTextToText.from_pretrained(args.output, dtype=torch.float32).eval()
    found = measure(loaded, AutoProcessor.from_pretrained(args.output), args.held_out)
    print(f"saved after {tick.step + 1} steps: { ({kind: round(share, 3) for kind, share in found.items()}) }")


if __name__ == "__main__":
    main()
