"""GenEval's numbers of a set of judged images, with bootstrap intervals, and the comparison of two sets.

Images without a score are in no mean; how many there are stands beside it. Intervals are percentiles of a bootstrap
that redraws prompts (images of one prompt are not independent) within each tag.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluate.results import ImageResult

DRAWS = 2000
LEVEL = 95
COUNT_RANGES = ((1, 5), (1, 10), (1, 20))


@dataclass(frozen=True)
class Estimate:
    """A number with its bootstrap interval of `LEVEL` per cent."""

    value: float
    low: float
    high: float

    def to_json(self) -> list[float] | None:
        """[value, low, high]; None where there is nothing to estimate from."""
        if math.isnan(self.value):
            return None
        return [round(number, 6) for number in (self.value, self.low, self.high)]


def summarize(results: Sequence[ImageResult], component: str = "correct") -> dict[str, Any]:
    """All numbers of an evaluation.

    Args:
        results: the judged images.
        component: which of the scorer's numbers is averaged: `correct` is GenEval's own rule.

    Returns:
        `overall` (unweighted mean of the tags' means), `tags`, `images` (share of images), `prompts` (share of prompts
        with at least one right image), each [value, low, high]; `counting` per count and range; `scored`, `unscored`.
    """
    scored = [result for result in results if result.is_scored]
    table = _Table([(result.tag, result.index) for result in scored], _values(scored, component))
    return {
        "component": component,
        "overall": table.estimate(_overall).to_json(),
        "tags": {tag: table.estimate(_mean_of(tag)).to_json() for tag in table.tags},
        "images": table.estimate(_over_images).to_json(),
        "prompts": table.estimate(_over_prompts).to_json(),
        "counting": counting_accuracy(scored),
        "scored": len(scored),
        "unscored": len(results) - len(scored),
    }


def counting_accuracy(results: Sequence[ImageResult]) -> dict[str, dict[str, float]]:
    """Share of counting images with exactly the wanted number, for each number and for the usual ranges."""
    by_count: dict[int, list[float]] = defaultdict(list)
    for result in results:
        if result.tag == "counting" and result.is_scored:
            by_count[result.wanted].append(result.component("strict_correct"))
    counts = {str(count): float(np.mean(values)) for count, values in sorted(by_count.items())}
    ranges = {}
    for low, high in COUNT_RANGES:
        inside = [value for count, values in by_count.items() if low <= count <= high for value in values]
        if inside:
            ranges[f"{low}-{high}"] = float(np.mean(inside))
    return {"counts": counts, "ranges": ranges}


def confusion(results: Sequence[ImageResult]) -> NDArray[np.int64]:
    """(wanted + 1, found + 1) numbers of counting images, row = wanted count, column = found count."""
    pairs = [(r.wanted, int(r.found)) for r in results if r.tag == "counting" and r.is_scored]
    size = max((number for pair in pairs for number in pair), default=0) + 1
    matrix = np.zeros((size, size), dtype=np.int64)
    for wanted, found in pairs:
        matrix[wanted, found] += 1
    return matrix


@dataclass(frozen=True)
class Pair:
    """The same prompt and sample, judged in two evaluations."""

    before: ImageResult
    after: ImageResult

    def change(self, component: str) -> float:
        return self.after.component(component) - self.before.component(component)


def pair_up(before: Sequence[ImageResult], after: Sequence[ImageResult]) -> list[Pair]:
    """Images that both evaluations scored, by prompt text and sample."""
    earlier = {(result.prompt, result.sample): result for result in before if result.is_scored}
    return [
        Pair(earlier[result.prompt, result.sample], result)
        for result in after
        if result.is_scored and (result.prompt, result.sample) in earlier
    ]


def compare(pairs: Sequence[Pair], component: str = "correct") -> dict[str, Any]:
    """How much better the second evaluation is, pair by pair.

    Returns:
        changes of `overall`, `tags` and `images`, each [value, low, high], from a bootstrap over prompts; numbers of
        images that got `better` and `worse`, and how many `pairs` there are.
    """
    before, after = [pair.before for pair in pairs], [pair.after for pair in pairs]
    prompts = [(result.tag, result.index) for result in before]
    tables = _Table(prompts, _values(before, component)), _Table(prompts, _values(after, component))
    changes = [pair.change(component) for pair in pairs]
    return {
        "component": component,
        "overall": _difference(*tables, _overall).to_json(),
        "tags": {tag: _difference(*tables, _mean_of(tag)).to_json() for tag in tables[0].tags},
        "images": _difference(*tables, _over_images).to_json(),
        "better": sum(change > 0 for change in changes),
        "worse": sum(change < 0 for change in changes),
        "pairs": len(pairs),
    }


def compare_prompts(
    before: Sequence[ImageResult], after: Sequence[ImageResult], component: str = "correct"
) -> Estimate | None:
    """Change of the overall number, prompt by prompt, where the two evaluations may have any numbers of images of each.

    Only prompts with a scored image in both count. None where there are none.
    """
    both = {result.prompt for result in before if result.is_scored}
    both &= {result.prompt for result in after if result.is_scored}

    def table(results: Sequence[ImageResult]) -> _Table:
        ours = [result for result in results if result.is_scored and result.prompt in both]
        ours.sort(key=lambda result: (result.tag, result.prompt))  # the same order of prompts in both
        return _Table([(result.tag, result.prompt) for result in ours], _values(ours, component))

    return _difference(table(before), table(after), _overall) if both else None


# Sums over the images of each prompt are all that any of the numbers needs. A statistic maps
# (weights of the prompts (draws, prompts), table) to (draws,) numbers.
_Statistic = Callable[[NDArray[np.float64], "_Table"], NDArray[np.float64]]


class _Table:
    """A number for each image, by prompt: sums, numbers of images, and the tag of each prompt.

    Args:
        prompts: (tag, line of the prompt file, or its text) of each image.
        values: of each image.
    """

    def __init__(self, prompts: Sequence[tuple[str, int | str]], values: Sequence[float]) -> None:
        groups: dict[tuple[str, int | str], list[float]] = defaultdict(list)
        for prompt, value in zip(prompts, values, strict=True):
            groups[prompt].append(value)
        self.tags = list(dict.fromkeys(tag for tag, _ in groups))
        self.of_tag = {tag: np.array([t == tag for t, _ in groups]) for tag in self.tags}
        self.sums = np.array([sum(values) for values in groups.values()], dtype=np.float64)
        self.numbers = np.array([len(values) for values in groups.values()], dtype=np.float64)
        self.any_right = np.array([max(values) >= 1 for values in groups.values()], dtype=np.float64)

    def estimate(self, statistic: _Statistic) -> Estimate:
        if not len(self.sums):
            return Estimate(*[float("nan")] * 3)
        value = statistic(np.ones((1, len(self.sums))), self)[0]
        low, high = _percentiles(statistic(self.weights(), self))
        return Estimate(float(value), low, high)

    def weights(self) -> NDArray[np.float64]:
        """(draws, prompts): how often each prompt is drawn, as many of each tag as there are. Always the same draws."""
        rng = np.random.default_rng(0)
        weights = np.zeros((DRAWS, len(self.sums)))
        for mask in self.of_tag.values():
            number = int(mask.sum())
            weights[:, mask] = rng.multinomial(number, np.full(number, 1 / number), size=DRAWS)
        return weights


def _difference(before: _Table, after: _Table, statistic: _Statistic) -> Estimate:
    if not len(before.sums):
        return Estimate(*[float("nan")] * 3)
    one = np.ones((1, len(before.sums)))
    weights = before.weights()
    low, high = _percentiles(statistic(weights, after) - statistic(weights, before))
    return Estimate(float((statistic(one, after) - statistic(one, before))[0]), low, high)


def _values(results: Sequence[ImageResult], component: str) -> list[float]:
    return [result.component(component) for result in results]


def _percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, [50 - LEVEL / 2, 50 + LEVEL / 2])
    return float(low), float(high)


def _mean_of(tag: str) -> _Statistic:
    def mean(weights: NDArray[np.float64], table: _Table) -> NDArray[np.float64]:
        inside = weights[:, table.of_tag[tag]]
        return (inside @ table.sums[table.of_tag[tag]]) / (inside @ table.numbers[table.of_tag[tag]])

    return mean


def _overall(weights: NDArray[np.float64], table: _Table) -> NDArray[np.float64]:
    return np.asarray(np.mean([_mean_of(tag)(weights, table) for tag in table.tags], axis=0))


def _over_images(weights: NDArray[np.float64], table: _Table) -> NDArray[np.float64]:
    return (weights @ table.sums) / (weights @ table.numbers)


def _over_prompts(weights: NDArray[np.float64], table: _Table) -> NDArray[np.float64]:
    return (weights @ table.any_right) / weights.sum(axis=1)
