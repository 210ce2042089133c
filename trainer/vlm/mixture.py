"""Conversations of several files together, each whole or in part, in the words of LLaVA's data files."""

import random
from collections.abc import Sequence
from functools import partial
from typing import Any

from assay.errors import ConfigError
from trainer.prompts import stable_seed
from trainer.vlm.config import DataSource
from trainer.vlm.conversations import Conversation, read_conversations


def read_mixture(sources: Sequence[DataSource], seed: int) -> list[Conversation]:
    """All conversations that the sources name, in their order.

    Args:
        sources: where they are.
        seed: of `random` parts; a file's part is the same in every run.

    Raises:
        ConfigError: see `read_conversations`; or a part holds nothing, or more than there is.
    """
    return [
        conversation
        for source in sources
        for conversation in read_conversations(source.path, source.images, partial(sample, source, seed))
    ]


def sample(source: DataSource, seed: int, entries: list[Any]) -> list[Any]:
    """A part of a file: all, or first:N, end:N, random:N with N a number or a share such as 50%; shares are rounded up.

    Args:
        source: the file, and which part.
        seed: of `random`.
        entries: of the file.

    Raises:
        ConfigError: it has not as many, or none is asked for.
    """
    sampling, path = source.sampling, source.path
    if sampling == "all":
        return entries
    which, _, amount = sampling.partition(":")
    number = -int(-float(amount[:-1]) * len(entries) // 100) if amount.endswith("%") else int(amount)
    if not 0 < number <= len(entries):
        raise ConfigError(f"data: sampling = {sampling!r} of {path}, which has {len(entries)}: that is {number}")
    if which == "random":
        chosen = random.Random(stable_seed("mixture", seed, path.name)).sample(range(len(entries)), number)
        return [entries[index] for index in sorted(chosen)]
    return entries[:number] if which == "first" else entries[-number:]
