"""How a run lies on its processes: whole on each of them, or in shards (FSDP2, DeepSpeed ZeRO-2).

accelerate's configuration says which; nothing outside this file asks. Each way owns the optimizer, sees to gradients
being averaged over the processes, and hands out and takes back whole tensors, so that a checkpoint of one way, on some
number of processes, is a checkpoint of every other.
"""

from math import isfinite
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import FullyShardedDataParallelPlugin, is_deepspeed_available, parse_flag_from_env
from torch import Tensor
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard

from assay.errors import ConfigError
from trainer.config import OptimizerConfig
from trainer.gathering import fill, whole

#: Of Adam's state, what has the shape of a parameter; `step` counts.
MOMENTS = ("exp_avg", "exp_avg_sq")


def lay_out(accelerator: Accelerator, transformer: Any, settings: OptimizerConfig) -> "Layout":
    """Lay out a transformer, whose trained parameters are those that require a gradient, as accelerate is told to.

    Raises:
        ConfigError: accelerate's configuration asks for what cannot be had here.
    """
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        from trainer.zero import ZeroTwo

        return ZeroTwo(accelerator, transformer, settings)
    # accelerate itself knows FSDP on accelerators alone; here, it is the same on CPUs.
    if parse_flag_from_env("ACCELERATE_USE_FSDP") and accelerator.num_processes > 1:
        return FullySharded(accelerator, transformer, settings)
    return Layout(accelerator, transformer, settings)


def precision_of_accelerate(mixed_precision: str) -> str:
    """What accelerate is told of `run.mixed_precision`: the generator's autocast does it, but fp16 needs a loss scale.

    Raises:
        ConfigError: it does not go with DeepSpeed, or accelerate asks for DeepSpeed, and there is none.
    """
    if not parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        return mixed_precision
    if not is_deepspeed_available():
        raise ConfigError("accelerate is to use DeepSpeed, which is not installed: pip install 'assay[deepspeed]'")
    if mixed_precision == "fp16":
        raise ConfigError("run.mixed_precision is fp16; allowed with DeepSpeed: no, bf16")
    return "no"  # or DeepSpeed would turn what is trained into bfloat16


class Layout:
    """Plain data parallelism: every process holds everything, and gradients are averaged in one message a step.

    The trained adapter is small, so that this costs less than a wrapper, and processes may do different numbers of
    passes.

    Args:
        accelerator: processes and mixed precision.
        transformer: the model with its adapter.
        settings: of AdamW.
    """

    #: Whether all processes must do the same passes at the same time.
    in_step = False

    def __init__(self, accelerator: Accelerator, transformer: Any, settings: OptimizerConfig) -> None:
        self._accelerator, self._max_grad_norm = accelerator, settings.max_grad_norm
        named = transformer.named_parameters()
        #: The trained parameters by name; where they are sharded, this process's shards.
        self.parameters: dict[str, torch.nn.Parameter] = {name: p for name, p in named if p.requires_grad}
        self._learning_rate = settings.learning_rate
        self._optimizer = torch.optim.AdamW(
            _groups(transformer, list(self.parameters.values()), settings.weight_decay),
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.epsilon,
        )
        self._prepared = self._prepare()
        if accelerator.scaler is not None:
            # Its scale exists from the first use on; a process without anything to learn must have one too.
            accelerator.scaler.scale(torch.zeros((), device=accelerator.device))

    def scale_learning_rate(self, factor: float) -> None:
        """The next step is taken with `factor` times the configured rate."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate * factor

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add a loss's gradient to those of this optimizer step; `last` says that `step` comes next."""
        self._accelerator.backward(loss)

    def step(self) -> float:
        """Average the gradients over the processes, clip, step, forget them; returns their norm before clipping."""
        for parameter in self.parameters.values():
            if parameter.grad is None:  # not part of the loss, or nothing to learn from here
                parameter.grad = torch.zeros_like(parameter)
        self._average_gradients()
        # accelerate's own clipping does the same, but with FSDP it unscales twice where it has prepared no model.
        self._accelerator.unscale_gradients()
        norm = torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), self._max_grad_norm)
        found = float(whole(norm))
        if self._accelerator.scaler is None:  # which skips such a step
            refuse_broken(found)
        self._prepared.step()
        self._prepared.zero_grad()
        return found

    @property
    def step_was_skipped(self) -> bool:
        """Of the last step: in fp16 a gradient overflowed, and the scale is lowered."""
        return bool(self._prepared.step_was_skipped)

    def optimizer_state(self) -> dict[str, Tensor]:
        """Whole tensors by `PARAMETER.KEY`, in main memory. Every process must call it."""
        return {
            f"{name}.{key}": whole(value)
            for name, parameter in self.parameters.items()
            for key, value in self._optimizer.state.get(parameter, {}).items()
        }

    def load(self, adapter: dict[str, Tensor], optimizer_state: dict[str, Tensor]) -> None:
        """Put whole tensors in place, the parameters' by name and the optimizer's as it gave them."""
        for name, parameter in self.parameters.items():
            fill(parameter, adapter[name])
            moments = {key: torch.zeros_like(parameter) for key in MOMENTS if f"{name}.{key}" in optimizer_state}
            for key, moment in moments.items():
                fill(moment, optimizer_state[f"{name}.{key}"])
            self._optimizer.state[parameter] = moments and {"step": optimizer_state[f"{name}.step"], **moments}

    def _prepare(self) -> Any:
        return self._accelerator.prepare_optimizer(self._optimizer)

    def _average_gradients(self) -> None:
        if self._accelerator.num_processes == 1:
            return
        grads = [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]
        mean = self._accelerator.reduce(torch.cat([grad.flatten() for grad in grads]), reduction="mean")
        for grad, part in zip(grads, mean.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(part.view_as(grad))


def _groups(
    transformer: torch.nn.Module, parameters: list[torch.nn.Parameter], weight_decay: float
) -> list[dict[str, Any]]:
    """AdamW's groups: matrices decay; biases, norms and embeddings do not, for to these 0 is a value like any other."""
    embeddings = {id(module.weight) for module in transformer.modules() if isinstance(module, torch.nn.Embedding)}
    decays = {id(own) for own in parameters if own.ndim > 1 and id(own) not in embeddings}
    groups = [
        {"params": [own for own in parameters if (id(own) in decays) == wanted], "weight_decay": decay}
        for wanted, decay in ((True, weight_decay), (False, 0.0))
    ]
    return [group for group in groups if group["params"]]


def refuse_broken(norm: float) -> None:
    """Raise ArithmeticError where a gradient's norm, which is the same on all processes, is not finite."""
    if not isfinite(norm):
        raise ArithmeticError(
            f"the gradient's norm is {norm}: training has diverged, or the precision overflows; checkpoints before hold"
        )


class FullySharded(Layout):
    """FSDP2: each process holds a shard of every block, base and adapter, and all put a block together as they need it.

    Blocks are those that the model itself names as not to be split. Policies are swapped and loaded in the shards
    (`trainer.policy_copy`), so that nothing may stay put together between two passes, the outermost layers included.
    Mixed precision is autocast's, as on one process, and shards keep their own: trained values and gradients float32.
    """

    in_step = True

    def __init__(self, accelerator: Accelerator, transformer: Any, settings: OptimizerConfig) -> None:
        blocks = set(fsdp_settings().transformer_cls_names_to_wrap or transformer._no_split_modules)
        parallelism = accelerator.parallelism_config
        mesh = accelerator.torch_device_mesh[tuple(parallelism.fsdp_dim_names)] if parallelism else None
        for module in list(transformer.modules()):
            if type(module).__name__ in blocks:
                fully_shard(module, mesh=mesh)
        fully_shard(transformer, mesh=mesh, reshard_after_forward=True)
        super().__init__(accelerator, transformer, settings)

    def _average_gradients(self) -> None:
        """Each backward pass has done so."""


def fsdp_settings() -> FullyShardedDataParallelPlugin:
    """accelerate's, from the environment, which its launcher fills.

    Raises:
        ConfigError: they ask for what is not done here, rather than that it is passed over.
    """
    plugin = FullyShardedDataParallelPlugin()
    found = {
        "fsdp_version": (plugin.fsdp_version, 2),
        "fsdp_reshard_after_forward": (plugin.reshard_after_forward, True),
        "fsdp_offload_params": (isinstance(plugin.cpu_offload, CPUOffloadPolicy), False),
        "fsdp_activation_checkpointing": (bool(plugin.activation_checkpointing), False),
    }
    for field, (value, allowed) in found.items():
        if value != allowed:
            hint = "; model.gradient_checkpointing does that" if field == "fsdp_activation_checkpointing" else ""
            raise ConfigError(f"accelerate's {field} is {value}; allowed: {allowed}{hint}")
    return plugin
