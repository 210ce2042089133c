"""Conversations of several files together, each whole or in part, in the words of LLaVA's data files."""

import random
from collections.abc import Sequence
from pathlib import Path

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
        for conversation in sample(read_conversations(source.path, source.images), source.sampling, source.path, seed)
    ]


def sample(conversations: Sequence[Conversation], sampling: str, path: Path, seed: int) -> list[Conversation]:
    """A part of a file.

    Args:
        conversations: of the file.
        sampling: all, or first:N, end:N, random:N with N a number or a share such as 50%; shares are rounded up.
        path: of the file, for messages.
        seed: of `random`.

    Raises:
        ConfigError: it has not as many, or none is asked for.
    """
    if sampling == "all":
        return list(conversations)
    which, _, amount = sampling.partition(":")
    number = -int(-float(amount[:-1]) * len(conversations) // 100) if amount.endswith("%") else int(amount)
    if not 0 < number <= len(conversations):
        raise ConfigError(f"data: sampling = {sampling!r} of {path}, which has {len(conversations)}: that is {number}")
    if which == "random":
        chosen = random.Random(stable_seed("mixture", seed, path.name)).sample(range(len(conversations)), number)
        return [conversations[index] for index in sorted(chosen)]
    return list(conversations[:number] if which == "first" else conversations[-number:])
