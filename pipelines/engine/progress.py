"""A progress bar: rate, remaining time, failures, and what others are at work on."""

from collections import Counter
from types import TracebackType

from tqdm import tqdm


class Progress:
    """Counts settled units; units that were done before the run are in the bar, and not in its rate."""

    def __init__(self, total: int, done: int, description: str) -> None:
        self._counts: Counter[str] = Counter()
        self._bar = tqdm(total=total, initial=done, desc=description, unit="unit", dynamic_ncols=True, smoothing=0.1)

    def settled(self, kind: str) -> None:
        """One more unit is "done", "failed", "blocked", or "elsewhere": done by another run."""
        self._counts[kind] += 1
        self._show(self._counts)
        self._bar.update()

    def waiting(self, number: int) -> None:
        """Nothing can start: other runs do the `number` units that are left, or workers are not up yet."""
        self._show(self._counts | Counter({"waiting": number}))

    def _show(self, counts: Counter[str]) -> None:
        self._bar.set_postfix({kind: number for kind, number in counts.items() if kind != "done"}, refresh=False)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._bar.close()
