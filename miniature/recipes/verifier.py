"""Pretrain the miniature verifier on scenes: a judge of pictures that has never seen the questions it will be asked.

    python -m miniature.recipes.verifier --output miniature/weights/verifier_zero_shot --minutes 15

Each picture comes with a few questions about it and their answers (`miniature.recipes.scene_questions`), all in one
conversation, of which the answers alone are learnt. Beside them the vision tower is told directly what stands in each
patch (the class and the colour of the object there, and whether its centre is), and the language model, at each class
that a question names, how many of them there are: of that colour, where the question says one. Without that, it would
have to find out from single words what objects are, and from "yes" and "no" that they are to be counted.

What comes of it is "zero-shot": verifiers are fine-tuned from it on a generator's own pictures, by `assay train orm`
and `assay train parm`, which teach it the questions of the service, too.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForImageTextToText, AutoProcessor

from assay.answer_tokens import find_answer_tokens
from assay.questions import read_questions
from miniature.glyphs import CLASSES
from miniature.prompts import GenEvalMetadata, scene_for
from miniature.recipes.patch_heads import SIDE, PatchHeads, patch_labels
from miniature.recipes.scene_questions import ask, fulfils, near, sample_task, texts
from miniature.recipes.timed import timed_cosine
from miniature.recipes.world_words import world_words
from miniature.vlm import build_vlm, save_vlm
from miniature.world import Scene

IGNORED = -100
QUESTIONS = 4  # about a picture
MOST_COUNTED = 5
HELD_OUT_SEED = 3 * 10**9
NOISE_LEVELS = 12.0  # of 255: a generator's pictures are not as clean as scenes,
MOST_BLUR = 0.5  # nor as sharp: the share of each pixel that its neighbours have


@dataclass(frozen=True)
class Batch:
    """What a step learns from.

    Args:
        inputs: of the model.
        labels: (batch, length), -100 where no answer stands.
        patches: (batch, 3, 64): class, colour and centre of each patch; class and colour are 0 where nothing stands.
        counts: (batch, length): where a question names a class, how many of them are in the picture, 5 standing for
            more, too; -100 everywhere else.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    patches: Tensor
    counts: Tensor


class Heads(nn.Module):
    """What the vision tower and the language model are asked directly; thrown away after pretraining."""

    def __init__(self, vision_width: int, width: int) -> None:
        super().__init__()
        self.patches = PatchHeads(vision_width)
        self.counts = nn.Linear(width, MOST_COUNTED + 1)


def draw_scenes(number: int, rng: np.random.Generator) -> tuple[list[Scene], list[GenEvalMetadata]]:
    """Scenes with the task that each was made for."""
    tasks = [sample_task(rng) for _ in range(number)]
    return [scene_for(task, rng) for task in tasks], tasks


def make_batch(
    processor: Any, scenes: Sequence[Scene], tasks: Sequence[GenEvalMetadata], rng: np.random.Generator
) -> Batch:
    """Pictures with noise, and conversations about them."""
    pieces = [list(_conversation(scene, task, rng)) for scene, task in zip(scenes, tasks, strict=True)]
    rows = [_tokens(processor, one) for one in pieces]
    length = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), length), processor.tokenizer.pad_token_id)
    labels, counts = (torch.full((len(rows), length), IGNORED) for _ in range(2))
    mask = torch.zeros((len(rows), length), dtype=torch.int64)
    words = world_words(processor.tokenizer)
    for row, ((tokens, learnt), scene) in enumerate(zip(rows, scenes, strict=True)):
        ids[row, : len(tokens)], labels[row, : len(tokens)] = torch.tensor(tokens), torch.tensor(learnt)
        counts[row, : len(tokens)] = torch.tensor(named_counts(tokens, learnt, words, scene))
        mask[row, : len(tokens)] = 1
    noise = rng.uniform(0, NOISE_LEVELS, (len(scenes), 1, 1, 1)) * rng.standard_normal((len(scenes), 64, 64, 3))
    pixels = _blurred(np.stack([scene.render() for scene in scenes]), rng) + noise
    values = torch.from_numpy(pixels.clip(0, 255) / 127.5 - 1).float().permute(0, 3, 1, 2)  # as the processor does
    inputs = {"input_ids": ids, "attention_mask": mask, "pixel_values": values}
    return Batch(inputs, labels, torch.from_numpy(np.stack([patch_labels(scene) for scene in scenes])), counts)


def _conversation(scene: Scene, task: GenEvalMetadata, rng: np.random.Generator) -> Iterator[tuple[str, bool]]:
    """Its text in pieces, in the chat template's form, and of each whether it is learnt."""
    for number in range(QUESTIONS):
        question, answer = ask(scene, task, rng)
        image = "" if number else "<image> "
        yield f"<|im_start|>user\n{image}{question}<|im_end|>\n<|im_start|>assistant\n", False
        yield f"{answer}<|im_end|>\n", True


def _tokens(processor: Any, pieces: Sequence[tuple[str, bool]]) -> tuple[list[int], list[int]]:
    """Ids, and labels; an image's mark becomes as many as it has patches."""
    ids: list[int] = []
    labels: list[int] = []
    for tokens, (_, is_learnt) in zip(processor.tokenizer([text for text, _ in pieces]).input_ids, pieces, strict=True):
        expanded = [one for token in tokens for one in [token] * (SIDE**2 if token == processor.image_token_id else 1)]
        ids += expanded
        labels += expanded if is_learnt else [IGNORED] * len(expanded)
    return ids, labels


def _blurred(pictures: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float64]:
    """(batch, height, width, 3), each picture as much as it happens."""
    soft = uniform_filter(pictures.astype(float), size=(1, 3, 3, 1))
    share = rng.uniform(0, MOST_BLUR, (len(pictures), 1, 1, 1))
    return pictures + share * (soft - pictures)


def named_counts(tokens: Sequence[int], learnt: Sequence[int], words: dict[int, str], scene: Scene) -> list[int]:
    """How many there are of each class that a question names, of the colour before it, if any."""
    found = [IGNORED] * len(tokens)
    for place, token in enumerate(tokens):
        if learnt[place] == IGNORED and (name := words.get(token)) in CLASSES:
            color = words.get(tokens[place - 1]) if place else None
            of_it = [item for item in scene.objects if item.class_name == name and color in (None, item.color)]
            found[place] = min(len(of_it), MOST_COUNTED)
    return found


def losses_of(model: Any, heads: Heads, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Mean cross-entropy of the answers' tokens, of the patches, and of the counts.

    Counts must be known halfway up: what is known only at the top, no answer can look at.
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
        named = batch.counts != IGNORED
        counted = F.cross_entropy(heads.counts(halfway[named]).float(), batch.counts[named])
        return said, heads.patches.loss(features[0], batch.patches), counted


@torch.no_grad()
def zero_shot_agreement(model: Any, processor: Any, number: int) -> dict[str, float]:
    """Share of right answers to the service's own question about an outcome, by tag, on scenes that no training saw:
    half of the prompts are right."""
    rng = np.random.default_rng(HELD_OUT_SEED)
    question, tokens = read_questions()["orm"], find_answer_tokens(processor.tokenizer, "yes", "no", "any")
    right: dict[str, list[bool]] = {}
    for index in range(number):
        (scene,), (task,) = draw_scenes(1, rng)
        asked = task if index % 2 else near(task, rng)
        text = f"<|im_start|>user\n{question.fill(prompt=asked['prompt'])}<|im_end|>\n<|im_start|>assistant\n"
        logits = model(**processor(text=text, images=scene.render(), return_tensors="pt")).logits[0, -1].float()
        margin = logits[list(tokens.yes)].logsumexp(0) - logits[list(tokens.no)].logsumexp(0)
        right.setdefault(str(asked["tag"]), []).append(bool(margin >= 0) == fulfils(scene, asked))
    return {tag: float(np.mean(found)) for tag, found in sorted(right.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("miniature/weights/verifier_zero_shot"))
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--scenes", type=int, default=20_000, help="drawn before training begins")
    parser.add_argument("--held-out", type=int, default=600)
    parser.add_argument("--start", type=Path, help="go on from this model instead of from scratch")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.set_flush_denormal(True)
    rng = np.random.default_rng(args.seed)
    asked = [template.text for template in read_questions().values()]
    if args.start:
        model = AutoModelForImageTextToText.from_pretrained(args.start, dtype=torch.float32)
        processor = AutoProcessor.from_pretrained(args.start)
    else:
        model, processor = build_vlm([*texts(), *asked], seed=args.seed)
    heads = Heads(model.config.vision_config.hidden_size, model.config.text_config.hidden_size)
    parameters = [*model.train().parameters(), *heads.parameters()]
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters", flush=True)
    began = time.monotonic()
    scenes, tasks = draw_scenes(args.scenes, rng)
    print(f"drew {len(scenes)} scenes in {time.monotonic() - began:.0f} s", flush=True)
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, betas=(0.9, 0.98), weight_decay=1e-3, fused=True)
    smooth = [6.0, 1.0, 1.0]
    for tick in timed_cosine(args.minutes, warm_up_steps=100, floor=0.02):
        optimizer.param_groups[0]["lr"] = args.learning_rate * tick.rate
        chosen = rng.integers(0, len(scenes), args.batch)
        batch = make_batch(processor, [scenes[n] for n in chosen], [tasks[n] for n in chosen], rng)
        losses = losses_of(model, heads, batch)
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        smooth = [old + 0.03 * (new.item() - old) for old, new in zip(smooth, losses, strict=True)]
        if tick.step % 50 == 0:
            said = f"answers {smooth[0]:.3f} patches {smooth[1]:.4f} counts {smooth[2]:.4f}"
            print(f"step {tick.step} share {tick.share:.3f} {said}", flush=True)
    save_vlm(args.output, model, processor)
    loaded = AutoModelForImageTextToText.from_pretrained(args.output, dtype=torch.float32).eval()
    found = zero_shot_agreement(loaded, AutoProcessor.from_pretrained(args.output), args.held_out)
    shares = {tag: round(share, 3) for tag, share in found.items()}
    print(f"saved after {tick.step + 1} steps; zero-shot: {np.mean(list(found.values())):.3f} {shares}")


if __name__ == "__main__":
    main()
