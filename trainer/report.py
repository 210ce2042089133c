"""What a run leaves for people: the before/after table, the gallery, and the reward curve."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainer.evaluation import EvaluatedImage, Evaluation

PAIRS_PER_ROW = 4


def comparison_table(before: Evaluation, after: Evaluation, accuracy: str) -> str:
    """Markdown table of the accuracy component per wanted count, over all, of the total reward and of each reward.

    A reward that training does not see and that falls while the total rises is the mark of reward hacking.
    """
    rows = [("all", before.mean(accuracy), after.mean(accuracy))]
    counts_before, counts_after = before.by_count(accuracy), after.by_count(accuracy)
    rows += [(f"{count} objects", counts_before[count], counts_after[count]) for count in counts_before]
    rows += [("reward", before.total, after.total)]
    if len(before.rewards) > 1:
        rows += [(name, before.rewards[name], after.rewards[name]) for name in before.rewards]
    unscored = f" ({before.unscored} and {after.unscored} unscored)" if before.unscored + after.unscored else ""
    lines = [
        f"| {accuracy}, {len(before.images)} held-out images{unscored} | before | after | change |",
        "|---|---|---|---|",
        *[f"| {name} | {old:.3f} | {new:.3f} | {new - old:+.3f} |" for name, old, new in rows],
    ]
    return "\n".join(lines)


def save_gallery(before: Sequence[EvaluatedImage], after: Sequence[EvaluatedImage], accuracy: str, path: Path) -> None:
    """The same (prompt, seed) pairs side by side: before, after, with what was judged of each."""
    pairs = [(old, new) for old, new in zip(before, after, strict=True) if old.image is not None]
    num_rows = -(-len(pairs) // PAIRS_PER_ROW)
    figure = Figure(figsize=(4 * PAIRS_PER_ROW, 2.5 * num_rows))
    axes = figure.subplots(num_rows, 2 * PAIRS_PER_ROW, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for index, pair in enumerate(pairs):
        row, column = divmod(index, PAIRS_PER_ROW)
        for side, (name, shown) in enumerate(zip(("before", "after"), pair, strict=True)):
            _show(axes[row][2 * column + side], shown, name, accuracy)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def save_curve(metrics: Sequence[dict[str, Any]], evaluations: Sequence[dict[str, Any]], path: Path) -> None:
    """Training reward per epoch, held-out accuracy and rewards, over epochs and over minutes."""
    names = list(evaluations[-1].get("rewards", ())) if evaluations else []
    flat = [
        {**point, **{f"held-out {name}": value for name, value in point["rewards"].items()}} for point in evaluations
    ]
    series = [(metrics, "reward_mean", "-", "training reward"), (flat, "accuracy", "o-", "held-out accuracy")]
    series += [(flat, f"held-out {name}", ".--", f"held-out {name}") for name in names]
    figure = Figure(figsize=(11, 4))
    axes = figure.subplots(1, 2, sharey=True)
    for axis, key, label in zip(axes, ("epoch", "minutes"), ("epoch", "minutes of training"), strict=True):
        for points, name, style, title in series:
            known = [(point[key], point[name]) for point in points if point.get(name) is not None]
            axis.plot(*zip(*known, strict=True), style, label=title) if known else None
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def save_ratios(metrics: Sequence[dict[str, Any]], path: Path) -> None:
    """Mean ratio and its deviation at each step of the sampler, for a few epochs; nothing where there are no ratios.

    Means below 1 that fall towards the last steps are what GRPO-Guard is there for.
    """
    with_ratios = [line for line in metrics if any(name.startswith("ratio_step/") for name in line)]
    if not with_ratios:
        return
    figure = Figure(figsize=(6, 4))
    axis = figure.subplots()
    for place in sorted({0, len(with_ratios) // 2, len(with_ratios) - 1}):
        line = with_ratios[place]
        steps = sorted(int(name.split("/")[1]) for name in line if name.startswith("ratio_step/"))
        means = [line[f"ratio_step/{step:02d}"] for step in steps]
        deviations = [line[f"ratio_deviation_step/{step:02d}"] for step in steps]
        axis.errorbar(steps, means, yerr=deviations, capsize=3, label=f"epoch {line['epoch']}")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("step of the sampler")
    axis.set_ylabel("ratio, mean and deviation")
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def _show(axis: Axes, shown: EvaluatedImage, name: str, accuracy: str) -> None:
    assert shown.image is not None
    value = shown.components.get(accuracy, float("nan"))
    verdict, color = {1.0: ("right", "green"), 0.0: ("wrong", "firebrick")}.get(value, (f"{value:.2f}", "dimgrey"))
    if value != value:
        verdict = "no score"
    axis.imshow(shown.image, interpolation="nearest")
    axis.set_title(f"{shown.prompt.removeprefix('a photo of ')}\n{name}: {verdict}", fontsize=8, color=color)
