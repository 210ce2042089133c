"""A unit of work: one item, in one variant, through one stage. Its identity gives its seeds; its inputs, its hash."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

#: Part of every hash: raising it makes everything be done again, so only a change of what a hash covers does.
HASH_VERSION = 1


@dataclass(frozen=True)
class Unit:
    """One thing to do.

    Args:
        item: what it is done to, e.g. a sample's id; unique within (variant, stage).
        variant: which of several ways, e.g. "mmsi/Qwen3-VL-4B-Instruct/flux2-klein-4B".
        stage: name of the stage that does it.
        folder: where its outputs are published, relative to the run's root, with forward slashes; no other unit's.
        inputs: everything that decides the outputs, as JSON values: parameters, prompts, digests of files and models.
        locations: what the stage needs besides and what does not decide the outputs, e.g. paths of the digested files.
        needs: units that must be done first. Their inputs are part of this unit's hash.
    """

    item: str
    variant: str
    stage: str
    folder: str
    inputs: Mapping[str, Any]
    locations: Mapping[str, Any] = field(default_factory=dict)
    needs: "tuple[Unit, ...]" = ()

    @property
    def key(self) -> tuple[str, str, str]:
        """The unit's identity: (item, variant, stage)."""
        return self.item, self.variant, self.stage

    @cached_property
    def name(self) -> str:
        """A file name for the unit: readable, and unique by a hash of the identity."""
        readable = re.sub(r"[^A-Za-z0-9]+", "-", f"{self.stage}-{self.item}")[:40].strip("-")
        return f"{readable}-{_digest(self.key)[:16]}"

    @cached_property
    def input_hash(self) -> str:
        """SHA-256 over identity, inputs, and the hashes of all that is needed first."""
        return _digest([HASH_VERSION, *self.key, self.inputs, [need.input_hash for need in self.needs]])

    def seed(self, *parts: int | str) -> int:
        """A seed in [0, 2**63), the same in every run, for this unit and e.g. the k-th image of it."""
        return stable_seed(*self.key, *parts)

    def planned(self) -> "PlannedUnit":
        return PlannedUnit(*self.key, self.folder, self.name, self.input_hash)

    def __str__(self) -> str:
        return f"{self.variant} / {self.item} / {self.stage}"


@dataclass(frozen=True)
class PlannedUnit:
    """What a plan keeps of a unit: enough to look it up in the ledger."""

    item: str
    variant: str
    stage: str
    folder: str
    name: str
    input_hash: str


def stable_seed(*parts: int | str) -> int:
    """A seed in [0, 2**63), the same in every run, from what identifies what is drawn."""
    return int(_digest(list(parts))[:16], 16) >> 1


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
