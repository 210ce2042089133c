"""What a run leaves for people: the before/after table, the gallery, and the reward curve."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from PIL import Image

from trainer.evaluation import EvaluatedImage, Evaluation

PAIRS_PER_ROW = 4


def comparison_table(before: Evaluation, after: Evaluation, accuracy: str) -> str:
    """Markdown table of the accuracy component per wanted count, over all, and of the total reward."""
    rows = [("all", before.mean(accuracy), after.mean(accuracy))]
    counts_before, counts_after = before.by_count(accuracy), after.by_count(accuracy)
    rows += [(f"{count} objects", counts_before[count], counts_after[count]) for count in counts_before]
    rows += [("reward", before.total, after.total)]
    lines = [
        f"| {accuracy}, {len(before.images)} held-out images | before | after | change |",
        "|---|---|---|---|",
        *[f"| {name} | {old:.3f} | {new:.3f} | {new - old:+.3f} |" for name, old, new in rows],
    ]
    return "\n".join(lines)


def summary(before: Evaluation, after: Evaluation, accuracy: str) -> dict[str, Any]:
    """The same numbers as JSON."""
    return {
        name: {
            "epoch": found.epoch,
            "images": len(found.images),
            "accuracy": found.mean(accuracy),
            "accuracy_by_count": found.by_count(accuracy),
            "reward": found.total,
        }
        for name, found in (("before", before), ("after", after))
    }


def save_gallery(before: Sequence[EvaluatedImage], after: Sequence[EvaluatedImage], accuracy: str, path: Path) -> None:
    """The same (prompt, seed) pairs side by side: before, after, with what was judged of each."""
    pairs = [(old, new) for old, new in zip(before, after, strict=True) if old.image is not None]
    num_rows = -(-len(pairs) // PAIRS_PER_ROW)
    figure, axes = plt.subplots(num_rows, 2 * PAIRS_PER_ROW, figsize=(4 * PAIRS_PER_ROW, 2.5 * num_rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for index, pair in enumerate(pairs):
        row, column = divmod(index, PAIRS_PER_ROW)
        for side, (name, shown) in enumerate(zip(("before", "after"), pair, strict=True)):
            _show(axes[row][2 * column + side], shown, name, accuracy)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def save_curve(metrics: Sequence[dict[str, Any]], evaluations: Sequence[dict[str, Any]], path: Path) -> None:
    """Training reward per epoch and held-out accuracy, over epochs and over minutes."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True)
    for axis, key, label in zip(axes, ("epoch", "minutes"), ("epoch", "minutes of training"), strict=True):
        axis.plot([m[key] for m in metrics], [m["reward_mean"] for m in metrics], label="training reward")
        axis.plot([e[key] for e in evaluations], [e["accuracy"] for e in evaluations], "o-", label="held-out accuracy")
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def save_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Every judged image as a JSON line, and the gallery's pictures as PNG, so that a resumed run has them again."""
    folder.mkdir(parents=True, exist_ok=True)
    for image in evaluation.images:
        if image.image is not None:
            Image.fromarray(image.image).save(folder / f"{image.index:05d}.png")
    rows = [
        {"index": i.index, "prompt": i.prompt, "count": i.count, "total": i.total, "components": i.components}
        for i in evaluation.images
    ]
    partial = folder / "results.jsonl.partial"
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
    partial.rename(folder / "results.jsonl")


def load_evaluation(folder: Path, epoch: int) -> Evaluation:
    """Read what `save_evaluation` wrote."""
    import numpy as np

    images = []
    for line in (folder / "results.jsonl").read_text().splitlines():
        row = json.loads(line)
        picture = folder / f"{row['index']:05d}.png"
        images.append(EvaluatedImage(**row, image=np.asarray(Image.open(picture)) if picture.exists() else None))
    return Evaluation(epoch, images)


def _show(axis: Axes, shown: EvaluatedImage, name: str, accuracy: str) -> None:
    assert shown.image is not None
    right = shown.components.get(accuracy, float("nan")) == 1
    axis.imshow(shown.image, interpolation="nearest")
    axis.set_title(
        f"{shown.prompt.removeprefix('a photo of ')}\n{name}: {'right' if right else 'wrong'}",
        fontsize=8,
        color="green" if right else "firebrick",
    )
