"""A second set of values for the trained parameters: an average, an older policy, a reference.

Values are swapped in place, so that any model (compiled, sharded) computes with them, and no second adapter is needed.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class PolicyCopy:
    """Starts equal to the live parameters, and follows them only as told.

    Args:
        parameters: the live parameters.
    """

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        self._parameters = parameters
        self.values: list[Tensor] = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """values <- decay * values + (1 - decay) * live; 0 copies."""
        torch._foreach_lerp_(self.values, list(self._parameters), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the live parameters hold these values. Not between a forward pass and its backward pass."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for value, parameter in zip(self.values, self._parameters, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(kept)
