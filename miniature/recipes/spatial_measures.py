"""How good a spatial judge of the miniature is on views that no training saw: in the words of its pretraining, and in
those of the x3 tasks, which it meets zero-shot."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from assay.questions import after_images
from miniature.recipes.spatial_examples import ALPHA, Example, draw_example
from miniature.recipes.spatial_questions import NOWHERE, Mask
from miniature.x3 import VIEWS, sample_uids
from miniature.x3_scenes import dilate
from pipelines.spatial_tasks.building.mark_worker import mark
from pipelines.spatial_tasks.building.prompts import CORRESPONDENCE, DIFFERENCE
from pipelines.spatial_tasks.points import read_answer

HELD_OUT_SEED = 3 * 10**9
MAX_NEW_TOKENS = 24
AT_ONCE = 50


@dataclass(frozen=True)
class Case:
    """A question about pictures, as a user's turn and all before it, and the mask that its answer is held against."""

    text: str
    pictures: Sequence[Any]
    mask: Mask


def x3_cases(number: int, seed: int = 17) -> dict[str, list[Case]]:
    """Questions of the tasks themselves: half of the pairs at least show the object.

    Args:
        number: of each kind.
        seed: of the scenes, none of which `python -m miniature.x3` writes for another seed.
    """
    pairs: list[Case] = []
    differences: list[Case] = []
    scene = 0
    while len(pairs) < number:
        for _, views in sample_uids(seed, scene):
            reference, *queries = views
            marked = mark(reference.pictures()["original"], dilate(reference.mask), ALPHA)
            query = queries[scene % (VIEWS - 1)]
            shown = query.pictures()
            pairs.append(Case(_user(after_images(CORRESPONDENCE, 2)), (marked, shown["original"]), query.mask))
            if query.mask.any():
                text = _user(after_images(DIFFERENCE, 2))
                differences.append(Case(text, (shown["original"], shown["inpainted"]), query.mask))
        scene += 1
    return {"x3 correspondence": pairs[:number], "x3 difference": differences[:number]}


def own_cases(number: int) -> dict[str, list[tuple[Example, str]]]:
    """Examples of each kind, with the text up to the last answer."""
    rng = np.random.default_rng(HELD_OUT_SEED)
    drawn = {kind: [draw_example(kind, rng) for _ in range(number)] for kind in ("pair", "difference", "relations")}
    return {
        kind: [(one, "".join(piece for piece, _ in one.conversation()[:-1])) for one in examples]
        for kind, examples in drawn.items()
    }


def measure(model: Any, processor: Any, number: int) -> dict[str, float]:
    """Shares of right answers: points on the object, `NOT_VISIBLE` or `nowhere` where it is out of view, yes and no.

    Args:
        model: in float32, on the CPU.
        processor: that goes with it.
        number: of questions of each kind.
    """
    found: dict[str, float] = {}
    for kind, pairs in own_cases(number).items():
        texts = write(model, processor, [text for _, text in pairs], [one.pictures for one, _ in pairs])
        wanted = [one.turns[-1][1] for one, _ in pairs]
        found |= _shares(kind, [_is_as_wanted(text, one, 0.1) for text, one in zip(texts, wanted, strict=True)], wanted)
    for kind, cases in x3_cases(number).items():
        texts = write(model, processor, [case.text for case in cases], [case.pictures for case in cases])
        right = [_is_right(text, case.mask) for text, case in zip(texts, cases, strict=True)]
        found |= _shares(kind, right, ["" if case.mask.any() else NOWHERE for case in cases])
    return found


@torch.inference_mode()
def write(model: Any, processor: Any, texts: Sequence[str], pictures: Sequence[Any]) -> list[str]:
    """What the model answers, the likeliest token each time."""
    written: list[str] = []
    tokenizer = processor.tokenizer
    side, tokenizer.padding_side = tokenizer.padding_side, "left"
    for start in range(0, len(texts), AT_ONCE):
        some = [list(one) for one in pictures[start : start + AT_ONCE]]
        inputs = processor(text=list(texts[start : start + AT_ONCE]), images=some, padding=True, return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        written += processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    tokenizer.padding_side = side
    return [text.strip() for text in written]


def _user(text: str) -> str:
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def _shares(kind: str, right: Sequence[bool], wanted: Sequence[str]) -> dict[str, float]:
    """Of those that are in view and those that are not, apart."""
    missing = [is_right for is_right, one in zip(right, wanted, strict=True) if one == NOWHERE]
    there = [is_right for is_right, one in zip(right, wanted, strict=True) if one != NOWHERE]
    found = {kind: float(np.mean(there))}
    return {**found, f"{kind}, missing": float(np.mean(missing))} if missing else found


def _is_as_wanted(text: str, wanted: str, tolerance: float) -> bool:
    """The same word, or a point within a tolerance of the wanted one."""
    target, point = read_answer(wanted).point, read_answer(text).point
    if target is None or point is None:
        return text == wanted
    return max(abs(point.x - target.x), abs(point.y - target.y)) <= tolerance


def _is_right(text: str, mask: Mask) -> bool:
    """On the mask, or rightly not visible."""
    answer = read_answer(text)
    if not mask.any() or answer.point is None:
        return answer.says_not_visible and not mask.any()
    height, width = mask.shape
    column, row = int(answer.point.x * width), int(answer.point.y * height)
    return 0 <= row < height and 0 <= column < width and bool(mask[row, column])
