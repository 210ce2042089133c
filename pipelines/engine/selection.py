"""Which units of a plan this run does: `--shard i/n` and `--indices 0 3 10-20`."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from assay.errors import ConfigError

_RANGE = re.compile(r"(\d+)[-:](\d+)")


@dataclass(frozen=True)
class Shard:
    """The part `index` (from 0) of `count` equal parts. Items are dealt out by a hash of their name, all stages of an
    item to one shard, so that adding an item moves no other."""

    index: int
    count: int

    def holds(self, item: str) -> bool:
        return int(hashlib.sha256(item.encode()).hexdigest()[:15], 16) % self.count == self.index


def parse_shard(text: str) -> Shard:
    """Read "i/n" with 0 <= i < n.

    Raises:
        ConfigError: it is not of that form.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if not found or not int(found[1]) < int(found[2]):
        raise ConfigError(f"shard = {text!r}; allowed: i/n with 0 <= i < n, e.g. 0/4, 1/4, 2/4, 3/4")
    return Shard(int(found[1]), int(found[2]))


def parse_indices(parts: Sequence[str], number: int) -> frozenset[int]:
    """Read positions in the list of items: whole numbers and inclusive ranges "a-b" or "a:b", spaces or commas between.

    Args:
        parts: e.g. ["0", "3", "10-20"] or ["0,3,10-20"].
        number: how many items there are.

    Raises:
        ConfigError: a part is of neither form, a range runs backwards, or an index is not below `number`.
    """
    chosen: set[int] = set()
    for part in " ".join(parts).replace(",", " ").split():
        found = _RANGE.fullmatch(part)
        if not found and not part.isdecimal():
            raise ConfigError(f"indices: {part!r} is neither a whole number nor a range a-b or a:b")
        first, last = (int(found[1]), int(found[2])) if found else (int(part), int(part))
        if first > last:
            raise ConfigError(f"indices: the range {part!r} runs backwards")
        if last >= number:
            raise ConfigError(f"indices: {part!r} is out of range; there are {number} items, 0 to {number - 1}")
        chosen.update(range(first, last + 1))
    return frozenset(chosen)
