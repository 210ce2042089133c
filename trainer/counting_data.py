"""`assay data counting`: prompts that ask for exact numbers of objects, in GenEval's form, split into train and test.

Every class, every count from 1 to the range's end, and ten wordings: `classes * range * 10` prompts, all distinct. Test
prompts are held out of training as prompts: the same class and count occur there in other wordings.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assay.coco import COCO_CLASSES, plural, singular
from assay.errors import ConfigError
from assay.files import write_whole

RANGES = (5, 10, 20, 40)
#: Share of the prompts of each count that is held out, as in the 7500 / 500 split of the published data of range 10.
TEST_SHARE = 1 / 16

SEVERAL = (
    "{number} {things} on a plain grey background",
    "a photo of {number} {things}, well apart from each other",
    "a picture that shows exactly {number} {things}",
    "{number} {things} laid out at random on an empty grey floor",
    "an evenly lit studio photo of {number} {things}",
    "a simple scene of {number} separate {things} and nothing else",
    "{number} {things}, each seen whole, on neutral ground",
    "a view from above of {number} {things} spread over a grey surface",
    "there are {number} {things} in this picture, none hidden by another",
    "a clear image of {number} {things} with space between them",
)
ONE = (
    "one {thing} on a plain grey background",
    "a photo of one {thing}, alone",
    "a picture that shows exactly one {thing}",
    "one {thing} lying somewhere on an empty grey floor",
    "an evenly lit studio photo of one {thing}",
    "a simple scene of one {thing} and nothing else",
    "one {thing}, seen whole, on neutral ground",
    "a view from above of one {thing} on a grey surface",
    "there is one {thing} in this picture, and no other",
    "a clear image of one {thing} with space around it",
)

_UP_TO_NINETEEN = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_UNITS = _UP_TO_NINETEEN.split()
_TENS = {2: "twenty", 3: "thirty", 4: "forty"}


@dataclass(frozen=True)
class CountingData:
    """Rows of the two files, in their order."""

    train: list[dict[str, Any]]
    test: list[dict[str, Any]]


def build(classes: Sequence[str], largest: int, seed: int = 0) -> CountingData:
    """All prompts, shuffled; of every count the same share is held out.

    Args:
        classes: names of object classes.
        largest: the largest count, at most 49.
        seed: of the shuffle and of the split.
    """
    rng = np.random.default_rng(seed)
    train: list[dict[str, Any]] = []
    test: list[dict[str, Any]] = []
    for count in range(1, largest + 1):
        rows = [row(name, count, wording) for name in classes for wording in (ONE if count == 1 else SEVERAL)]
        held_out = set(rng.permutation(len(rows))[: round(len(rows) * TEST_SHARE)].tolist())
        train += [row for index, row in enumerate(rows) if index not in held_out]
        test += [row for index, row in enumerate(rows) if index in held_out]
    return CountingData([train[index] for index in rng.permutation(len(train))], test)


def row(class_name: str, count: int, wording: str) -> dict[str, Any]:
    """One task: exactly `count` objects, told by `include` (at least) and `exclude` (not one more)."""
    prompt = wording.format(number=number_word(count), things=plural(class_name), thing=singular(class_name))
    return {
        "tag": "counting",
        "include": [{"class": class_name, "count": count}],
        "exclude": [{"class": class_name, "count": count + 1}],
        "prompt": prompt,
        "class": class_name,
    }


def number_word(number: int) -> str:
    """In words, 0 to 49: "seven", "twenty", "thirty-eight"."""
    if number < len(_UNITS):
        return _UNITS[number]
    tens, units = divmod(number, 10)
    return _TENS[tens] + (f"-{_UNITS[units]}" if units else "")


def counting(output: Path, largest: int, classes: str, seed: int) -> int:
    """Write `train.jsonl` and `test.jsonl` into the folder `output`.

    Args:
        output: is made where it is not there.
        largest: the largest count, one of `RANGES`.
        classes: "coco80", or names with commas between.
        seed: of the shuffle and of the split.

    Raises:
        ConfigError: the range is none of `RANGES`, or there are no classes.
    """
    if largest not in RANGES:
        raise ConfigError(f"range = {largest}; allowed: {', '.join(map(str, RANGES))}")
    named = tuple(dict.fromkeys(name.strip() for name in classes.split(",") if name.strip()))
    names = COCO_CLASSES if classes == "coco80" else named
    if not names:
        raise ConfigError(f"classes = {classes!r}; allowed: coco80, or names with commas between")
    data = build(names, largest, seed)
    output.mkdir(parents=True, exist_ok=True)
    for part, rows in (("train", data.train), ("test", data.test)):
        path = output / f"{part}.jsonl"
        write_whole(path, "".join(json.dumps(task) + "\n" for task in rows))
        print(f"{path}: {len(rows)} prompts, {len(names)} classes, counts 1 to {largest}")
    return 0
