"""TRL's SFTTrainer with a learning rate of its own for the vision tower, and that goes on from what it saved."""

from typing import Any

import torch
from peft import PeftModel
from trl import SFTTrainer

from trainer.vlm.loading import is_within


class AnswerTrainer(SFTTrainer):
    """Trains on what the collator says are answers; see `SFTTrainer` for its arguments.

    Args:
        vision: (name of the vision tower's module, its learning rate); None: all is trained at one rate.
    """

    def __init__(self, *arguments: Any, vision: tuple[str, float] | None = None, **named: Any) -> None:
        self._vision = vision
        super().__init__(*arguments, **named)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer as ever, the vision tower's parameters in groups of their own."""
        is_new = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if self._vision is not None and is_new:
            tower, rate = self._vision
            named = (self.model if model is None else model).named_parameters()
            of_tower = {id(parameter) for name, parameter in named if is_within(tower, name)}
            for group in list(optimizer.param_groups):
                apart = [parameter for parameter in group["params"] if id(parameter) in of_tower]
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in of_tower]
                if apart:
                    optimizer.add_param_group({**group, "params": apart, "lr": rate})
        return optimizer

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """A checkpoint's tensors have the hub's names, which are not those of the modules (LLaVA's). transformers puts
        them in by name, so that a resumed run would go on from the start's weights, with a warning."""
        target = self.model if model is None else model
        if self.is_fsdp_enabled or isinstance(target, PeftModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        saved = type(target).from_pretrained(resume_from_checkpoint, dtype=target.dtype)
        target.load_state_dict(saved.state_dict())
