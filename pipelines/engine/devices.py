"""Which GPUs a run uses. Pure: CUDA_VISIBLE_DEVICES and a count go in, entries of it come out.

Inside a process the visible devices are numbered anew from 0: with CUDA_VISIBLE_DEVICES=0,2 the second is `cuda:1`,
never `cuda:2`. So a process gets the variable with one entry, whatever its form (number, GPU-<uuid>, MIG-<uuid>), and
its device is always `cuda:0`.
"""

from assay.errors import ConfigError


def visible_gpus(cuda_visible_devices: str | None, seen: int) -> list[str]:
    """The entry of each GPU that this process sees: `cuda:i` here is the i-th of them.

    Args:
        cuda_visible_devices: the variable's value; None if it is not set.
        seen: how many GPUs CUDA shows to this process under that value. CUDA reads the list up to the first entry that
            is no device of the machine.
    """
    if cuda_visible_devices is None:
        return [str(index) for index in range(seen)]
    return [entry.strip() for entry in cuda_visible_devices.split(",")][:seen]


def choose_gpus(visible: list[str], num_gpus: int) -> list[str]:
    """The first `num_gpus` of the visible entries; all for -1. Where none is visible, none: the CPU does it.

    Raises:
        ConfigError: some are visible, but fewer than asked for; or the number makes no sense.
    """
    if num_gpus == -1 or (num_gpus > 0 and not visible):
        return visible
    if num_gpus < 0 or num_gpus > len(visible):
        seen = f"{len(visible)} visible" + (f" ({', '.join(visible)})" if visible else "")
        raise ConfigError(f"num_gpus = {num_gpus}; allowed: -1 (all), 0 (the CPU), or up to {len(visible)}: {seen}")
    return visible[:num_gpus]
