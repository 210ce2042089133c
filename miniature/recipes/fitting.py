"""The loop that flow-matching recipes share: AdamW for a given time, averaged weights, a save every five minutes."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from miniature.recipes.generator import Averaged
from miniature.recipes.timed import timed_cosine

SAVE_EVERY_S = 300


def add_fitting_arguments(parser: argparse.ArgumentParser, *, minutes: float, learning_rate: float) -> None:
    """What every such recipe takes, with the defaults of this one."""
    parser.add_argument("--minutes", type=float, default=minutes)
    parser.add_argument("--learning-rate", type=float, default=learning_rate)
    parser.add_argument("--compile", action="store_true", help="takes a C++ compiler and a minute; 1.7 times as fast")
    parser.add_argument("--start", type=Path, help="go on from this pipeline instead of from scratch")
    parser.add_argument("--seed", type=int, default=0)


def fit_for_minutes(
    pipeline: Any,
    modules: list[torch.nn.Module],
    loss_of: Callable[[int], Tensor],
    *,
    output: Path,
    minutes: float,
    learning_rate: float,
) -> None:
    """Train `modules` of `pipeline` and save it, with averaged weights and in half precision, when the time is over.

    Args:
        loss_of: the loss of a step, from its number; draws its own batch.
        output: folder; holds the state of at most five minutes ago (in full precision) while training lasts.
        minutes: how long.
        learning_rate: the highest, after a warm-up of 200 steps; a cosine takes it down to a hundredth.
    """
    parameters = [p for module in modules for p in module.train().parameters()]
    print(f"{sum(p.numel() for p in parameters):,} parameters", flush=True)
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=1e-3, fused=True)
    loss_of(0).backward()  # thrown away: where a model is compiled, the time begins when that is done
    averaged, smooth, saved = Averaged(modules), 1.0, time.monotonic()
    for tick in timed_cosine(minutes, warm_up_steps=200, floor=0.01):
        optimizer.param_groups[0]["lr"] = learning_rate * tick.rate
        loss = loss_of(tick.step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        averaged.update(tick.step)
        smooth += 0.02 * (loss.item() - smooth)
        if tick.step % 50 == 0:
            print(f"step {tick.step} share {tick.share:.3f} loss {smooth:.4f}", flush=True)
        if time.monotonic() - saved > SAVE_EVERY_S:
            averaged.swap()
            pipeline.save_pretrained(output)
            averaged.swap()
            saved = time.monotonic()
    averaged.swap()
    pipeline.to(torch.float16).save_pretrained(output)
    print(f"saved after {tick.step + 1} steps, loss {smooth:.4f}")
