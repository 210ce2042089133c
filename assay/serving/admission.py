"""Admission: what a server takes on before it does any work for it.

Counts items, pixels and bytes of all calls under way and refuses what would exceed the bounds, so that memory stays
bounded and an overloaded service says so at once instead of answering too late. Runs on the event loop; no locks.
"""

from collections.abc import Callable
from dataclasses import dataclass

from assay.serving.rejection import Rejection


@dataclass
class Load:
    """What calls weigh. `pixels` are those of decoded images, `image_bytes` those on the wire."""

    items: int = 0
    pixels: int = 0
    image_bytes: int = 0

    def __add__(self, other: "Load") -> "Load":
        return Load(self.items + other.items, self.pixels + other.pixels, self.image_bytes + other.image_bytes)

    def __sub__(self, other: "Load") -> "Load":
        return Load(self.items - other.items, self.pixels - other.pixels, self.image_bytes - other.image_bytes)


class Ticket:
    """The place of one call; give it back with `release`, once."""

    def __init__(self, admission: "Admission", load: Load) -> None:
        self._admission = admission
        self.load = load

    def add_pixels(self, pixels: int, retry_after_s: Callable[[], float]) -> None:
        """Count pixels once headers have told them. Raises: Rejection: QUEUE_FULL."""
        self._admission.take(Load(pixels=pixels), retry_after_s)
        self.load = self.load + Load(pixels=pixels)

    def give_back(self, load: Load) -> None:
        """Count no longer what turned out to be no work."""
        self._admission.current = self._admission.current - load
        self.load = self.load - load

    def release(self) -> None:
        self.give_back(self.load)


class Admission:
    """The bounds of a server and what it holds now."""

    def __init__(self, bounds: Load) -> None:
        self.bounds = bounds
        self.current = Load()

    def admit(self, load: Load, retry_after_s: Callable[[], float]) -> Ticket:
        """Take on a call. Raises: Rejection: QUEUE_FULL (UNAVAILABLE; the caller may try elsewhere or later)."""
        self.take(load, retry_after_s)
        return Ticket(self, load)

    def take(self, load: Load, retry_after_s: Callable[[], float]) -> None:
        total = self.current + load
        for name in ("items", "pixels", "image_bytes"):
            held, bound = getattr(self.current, name), getattr(self.bounds, name)
            # A call larger than the bound is taken when nothing else is held; it could never be taken otherwise.
            if getattr(total, name) > bound and held > 0 and getattr(load, name) > 0:
                raise Rejection(
                    "UNAVAILABLE",
                    "QUEUE_FULL",
                    f"queue is full: {held} of {bound} {name}, {getattr(load, name)} more asked for",
                    {"bound": name, "held": str(held), "limit": str(bound)},
                    retry_after_s(),
                )
        self.current = total
