"""Which precision a model's weights are loaded in."""

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16", "float16"]


def weights_dtype(precision: Precision, device: str) -> torch.dtype:
    """The torch type of a precision; `auto` is bfloat16 on a GPU and float32 on the CPU."""
    if precision == "auto":
        return torch.bfloat16 if device.startswith("cuda") else torch.float32
    dtype: torch.dtype = getattr(torch, precision)
    return dtype
