"""`assay train CONFIG` with DeepSpeed ZeRO-2 on CPUs, started by torch.distributed.run.

accelerate uses DeepSpeed on accelerators alone. Here it first sets up its processes on CPUs, and is then told that they
are DeepSpeed's; everything after that is the trainer's own code.
"""

import os
import sys
from pathlib import Path
from typing import Any

os.environ["DS_ACCELERATOR"] = "cpu"

import accelerate
import deepspeed
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DeepSpeedPlugin, DistributedType

from trainer import cli


def make_accelerator(**settings: Any) -> accelerate.Accelerator:
    made = accelerate.Accelerator(**settings)
    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
    plugin = DeepSpeedPlugin(zero_stage=2)
    plugin.set_mixed_precision("no")
    made.state.deepspeed_plugins = {"default": plugin}
    plugin.select(_from_accelerator_state=True)
    made.deepspeed_engine_wrapped = None
    for state in (PartialState, AcceleratorState):
        state._shared_state["distributed_type"] = DistributedType.DEEPSPEED
    return made


if __name__ == "__main__":
    cli.Accelerator = make_accelerator
    sys.exit(cli.train(Path(sys.argv[1])))
