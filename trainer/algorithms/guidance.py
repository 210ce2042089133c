"""A verifier's say in preference learning: how much a pair counts, by the verifier's own scores of its two images.

Published PARM-guided DPO adds to the loss a term -log r, with r the verifier's belief in an image that the policy has
just drawn. r does not depend on the policy's numbers but through that drawing, which no gradient passes: the term
changes what is logged and nothing else. Here the verifier weighs the gradient itself. With the lead
d = score(chosen) - score(rejected), a pair

    select   counts where d > margin
    weigh    counts d there: the surer the verifier, the more; a pair that it sees the other way round is left out

The scores are the weighted total of `rewards`: a verifier's probability of yes as a rule, or its log-odds with
`component: margin`.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from assay.config import ConfigModel


class GuidanceConfig(ConfigModel):
    """How scores of a pair's images become its weight."""

    use: Literal["select", "weigh"] = "weigh"
    margin: float = Field(0.0, ge=0, allow_inf_nan=False, description="of no use is a lead that is not above it")


def pair_weights(config: GuidanceConfig, chosen: Tensor, rejected: Tensor) -> Tensor:
    """(pairs,) float32 weights, 0 for what is left out.

    Args:
        config: the rule.
        chosen: (pairs,) scores of the better images; NaN where there is none, which leaves the pair out.
        rejected: (pairs,) of the worse ones, likewise.
    """
    lead = (chosen - rejected).float()
    counts = lead > config.margin
    return torch.where(counts, lead if config.use == "weigh" else torch.ones_like(lead), 0.0)
