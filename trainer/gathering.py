"""Putting together what the processes of a run hold."""

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray


def gather_rows(accelerator: Accelerator, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows (rows, columns) of all processes, in order of process; every process must bring equally many."""
    if accelerator.num_processes == 1:
        return rows
    tensor = torch.as_tensor(rows, dtype=torch.float64, device=accelerator.device)
    gathered: NDArray[np.float64] = accelerator.gather(tensor).cpu().numpy()
    return gathered
