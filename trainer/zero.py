"""DeepSpeed ZeRO-2: each process keeps gradients and moments of its share of the trained parameters.

DeepSpeed is given the adapter alone: the frozen transformer stays as it is on every process, in the precision that it
was loaded in. Its engine steps inside the backward pass that accelerate calls the last one, and clips there.
"""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from assay.errors import ConfigError
from trainer.config import OptimizerConfig
from trainer.gathering import fill, whole
from trainer.layout import MOMENTS, Layout, refuse_broken


class ZeroTwo(Layout):
    """The trained parameters lie in one flat vector, of which each process updates its share.

    Raises:
        ConfigError: accelerate's DeepSpeed settings ask for another stage, or for offloading.
    """

    in_step = True

    def __init__(self, accelerator: Accelerator, transformer: Any, settings: OptimizerConfig) -> None:
        plugin = accelerator.state.deepspeed_plugin
        if plugin.zero_stage != 2:
            raise ConfigError(f"accelerate's zero_stage is {plugin.zero_stage}; allowed: 2 (FSDP2 shards more)")
        if plugin.offload_optimizer_device != "none":
            raise ConfigError(
                f"accelerate's offload_optimizer_device is {plugin.offload_optimizer_device}; allowed: none"
            )
        # Every loss is already scaled, and passes are counted by the caller: nothing is left to divide by.
        plugin.deepspeed_config |= {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": settings.max_grad_norm,
        }
        super().__init__(accelerator, transformer, settings)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self._accelerator.sync_gradients = last
        self._accelerator.backward(loss)

    def step(self) -> float:
        norm = float(self._accelerator.clip_grad_norm_(self.parameters.values(), self._max_grad_norm))
        refuse_broken(norm)  # too late for the adapter, but in time for the checkpoint
        return norm

    def optimizer_state(self) -> dict[str, Tensor]:
        from deepspeed.utils import safe_get_full_optimizer_state

        state = self._prepared.optimizer.optimizer.state
        if not state:
            return {}
        step = torch.as_tensor(next(iter(state.values()))["step"], dtype=torch.float32)
        found: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            found[f"{name}.step"] = step.clone()
            found |= {f"{name}.{key}": whole(safe_get_full_optimizer_state(parameter, key)) for key in MOMENTS}
        return found

    def load(self, adapter: dict[str, Tensor], optimizer_state: dict[str, Tensor]) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        for name, parameter in self.parameters.items():
            fill(parameter, adapter[name])
        zero = self._prepared.optimizer
        zero.refresh_fp32_params()
        if not optimizer_state:
            return
        step = optimizer_state[f"{next(iter(adapter))}.step"]
        for share in zero.single_partition_of_fp32_groups:
            moments = {key: torch.zeros_like(share) for key in MOMENTS}
            zero.optimizer.state[share] = {"step": step.clone(), **moments}
        zero._lazy_init_hp_params_optimizer_state()  # its own loader of checkpoints does this for every parameter
        for name, parameter in self.parameters.items():
            for key in MOMENTS:
                value = optimizer_state[f"{name}.{key}"].to(parameter.device)
                safe_set_full_optimizer_state(parameter, value, key)

    def _prepare(self) -> Any:
        adapter = torch.nn.ParameterList(self.parameters.values())
        _, prepared = self._accelerator.prepare(adapter, self._optimizer)
        return prepared
