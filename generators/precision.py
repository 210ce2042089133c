"""Which precision a model's weights are loaded in."""

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16", "float16"]


def resolved(precision: Precision, *, on_gpu: bool) -> Precision:
    """The precision that `auto` stands for: bfloat16 on a GPU, float32 on the CPU. It decides what comes out."""
    if precision != "auto":
        return precision
    return "bfloat16" if on_gpu else "float32"


def weights_dtype(precision: Precision) -> torch.dtype:
    """The torch type of a precision that is resolved."""
    dtype: torch.dtype = getattr(torch, precision)
    return dtype
