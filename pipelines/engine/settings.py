"""Settings that every batch job has: where attempts run, which units this run does, what happens after errors."""

from typing import Literal

from pydantic import Field, field_validator

from assay.config import ConfigModel


class BatchSettings(ConfigModel):
    """How a batch job runs. None of it changes what comes out.

    Args:
        engine: `in_process` is one worker on one device; `ray` is one a GPU, or `workers` CPU cores; `auto` is `ray`
            where more than one GPU, more than one worker, or a cluster is to be used.
        num_gpus: of those that CUDA_VISIBLE_DEVICES shows; -1 is all, 0 is the CPU.
        workers: processes on the CPU, for `ray` without GPUs.
        ray_address: of a running cluster, as `ray.init` takes it; None starts Ray on this machine.
        retries: further attempts at a unit that ended in an error that may pass.
        continue_on_error: go on with other units when one has failed.
        skip_existing: leave alone what is done already.
        shard: "i/n": do the i-th of n parts of the items.
        indices: do the items at these positions, e.g. "0 3 10-20".
    """

    engine: Literal["auto", "in_process", "ray"] = "auto"
    num_gpus: int = Field(default=-1, ge=-1)
    workers: int = Field(default=1, ge=1)
    ray_address: str | None = None
    retries: int = Field(default=2, ge=0)
    continue_on_error: bool = True
    skip_existing: bool = True
    shard: str | None = None
    indices: str | None = None

    def on_gpus(self, gpus_seen: int) -> bool:
        """Whether the work goes to GPUs: those that this process sees, or those of a cluster."""
        return self.num_gpus != 0 and (gpus_seen > 0 or self.ray_address is not None)

    @field_validator("indices", mode="before")
    @classmethod
    def _one_index_is_a_number(cls, value: object) -> object:
        return str(value) if isinstance(value, int) else value
