"""How long a batch takes: a line fitted through the last batches, seconds = fixed + each * items.

Used to refuse work that cannot meet its deadline, so it errs on the fast side: while all batches had the same size,
nothing is known of larger ones, and they are taken to cost no more.
"""

from collections import deque

WINDOW_BATCHES = 50


class ServiceTime:
    """Least squares over the last batches of one scorer."""

    def __init__(self) -> None:
        self._batches: deque[tuple[int, float]] = deque(maxlen=WINDOW_BATCHES)
        self._line: tuple[float, float] | None = None  # (fixed, each), until the next batch is observed

    def observe(self, num_items: int, seconds: float) -> None:
        self._batches.append((num_items, seconds))
        self._line = None

    def estimate_s(self, num_items: int, num_batches: int) -> float:
        """Seconds for `num_items` in `num_batches`; 0 while nothing is known."""
        if self._line is None:
            self._line = self._fit()
        fixed_s, each_s = self._line
        return fixed_s * num_batches + each_s * num_items

    def _fit(self) -> tuple[float, float]:
        count = len(self._batches)
        if count == 0:
            return 0.0, 0.0
        mean_items = sum(items for items, _ in self._batches) / count
        mean_s = sum(seconds for _, seconds in self._batches) / count
        variance = sum((items - mean_items) ** 2 for items, _ in self._batches)
        if variance == 0:
            return mean_s, 0.0
        covariance = sum((items - mean_items) * (seconds - mean_s) for items, seconds in self._batches)
        each_s = min(max(covariance / variance, 0.0), mean_s / mean_items)
        return mean_s - each_s * mean_items, each_s
