"""`assay train CONFIG` in fp16 with a loss scale on CPUs, started by torch.distributed.run.

accelerate scales losses, and knows FSDP, on accelerators alone. Here it first sets up its processes on CPUs, and is
then told what it would be on GPUs; everything after that is the trainer's own code.
"""

import sys
from pathlib import Path
from typing import Any

import accelerate
import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, parse_flag_from_env

from trainer import cli


def scale_losses(accelerator: accelerate.Accelerator, first: float, then: float) -> accelerate.Accelerator:
    """As its constructor does it on GPUs for fp16: with FSDP2 the scaler is the plain one, too.

    Args:
        first: scale to begin with.
        then: scale after the first step that overflows.
    """
    accelerator.native_amp = True
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=first, backoff_factor=then / first)
    AcceleratorState._shared_state["_mixed_precision"] = "fp16"
    return accelerator


def shard() -> None:
    """Let accelerate's state be that of FSDP2."""
    for state in (PartialState, AcceleratorState):
        state._shared_state["distributed_type"] = DistributedType.FSDP
    AcceleratorState._shared_state["fsdp_plugin"] = FullyShardedDataParallelPlugin(fsdp_version=2)


def make_accelerator(**settings: Any) -> accelerate.Accelerator:
    made = scale_losses(accelerate.Accelerator(**settings | {"mixed_precision": "no"}), first=2.0**60, then=2.0**14)
    if parse_flag_from_env("ACCELERATE_USE_FSDP"):
        shard()
    return made


if __name__ == "__main__":
    cli.Accelerator = make_accelerator
    sys.exit(cli.train(Path(sys.argv[1])))
