"""Putting together what the processes of a run hold, and sharing out what one of them has read."""

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def gather_rows(accelerator: Accelerator, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows (rows, columns) of all processes, in order of process; every process must bring equally many."""
    if accelerator.num_processes == 1:
        return rows
    tensor = torch.as_tensor(rows, dtype=torch.float64, device=accelerator.device)
    gathered: NDArray[np.float64] = accelerator.gather(tensor).cpu().numpy()
    return gathered


@torch.no_grad()
def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may lie in shards on the processes, in main memory. Every process must call it."""
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().cpu().contiguous()


@torch.no_grad()
def fill(target: Tensor, source: Tensor) -> None:
    """Copy the whole tensor `source`, which every process has, into `target`, which may lie in shards."""
    source = source.to(target.device)
    if isinstance(target, DTensor):
        source = distribute_tensor(source, target.device_mesh, target.placements, src_data_rank=None)
    target.copy_(source)
