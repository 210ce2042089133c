"""Assay's rewards in TRL's GRPOTrainer (trl 1.16), for a language model that writes prompts for an image generator.

The model rewrites what a user asks for; `render` draws the rewritten prompt; the service judges the picture by what was
asked for. The model learns to write what the generator draws right.

    from trl import GRPOConfig, GRPOTrainer
    from trl_reward import make_image_reward

    reward = make_image_reward(render, ["localhost:50051"], scorer="counting")
    GRPOTrainer(model, reward_funcs=reward, args=GRPOConfig(...), train_dataset=dataset).train()

The dataset has a column `prompt`, plain or conversational, as always with TRL, and a column `geneval`: the row of
GenEval that says what the picture must show, as JSON text. Where it is None the reward does not apply, and gives None.

`render` takes a list of prompts and returns a list of pictures. With diffusers:

    def render(prompts):
        return pipe(prompts).images
"""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

from assay.rewards import RewardConfig, RewardSet

Rewards = list[float | None]

#: `on_failure` here -> in `assay.rewards`.
POLICIES = {"raise": "raise", "none": "drop_group"}


def make_image_reward(
    render: Callable[[list[str]], Sequence[Any]],
    targets: Sequence[str],
    *,
    scorer: str,
    on_failure: Literal["raise", "none"] = "raise",
    fingerprint: str | None = None,
    token: str | None = None,
    **client_options: Any,
) -> Callable[..., Awaitable[Rewards]]:
    """An asynchronous reward function; TRL runs it beside the others, and logs it under the scorer's name.

    Args:
        render: prompts -> as many images, PIL or uint8 (height, width, 3). Called in a thread of its own.
        targets: addresses of the service's replicas.
        scorer: which of its scorers.
        on_failure: what becomes of a picture without a score. `raise` stops the training. `none` gives None, which TRL
            leaves out of the group's mean and does not train on, if this is the only reward function. Where there are
            others, TRL sums over those that answered, which makes the failure a 0: then leave it at `raise`.
        fingerprint: the scorer's expected fingerprint; None pins the first one seen.
        token: bearer token of the service.
        client_options: further arguments of `assay.client.RewardClient`, e.g. `deadline_s`.

    Raises:
        ValueError: an argument makes no sense. What the service refuses is raised in training.
    """
    if on_failure not in POLICIES:
        raise ValueError(f"on_failure = {on_failure!r}: must be one of {', '.join(POLICIES)}")
    shared = {"targets": targets, "fingerprint": fingerprint, "on_failure": POLICIES[on_failure]}
    config = RewardConfig.model_validate({"name": scorer, "scorer": scorer, **shared})
    rewards = RewardSet([config], token=token, **client_options)

    async def reward(
        prompts: Sequence[Any], completions: Sequence[Any], geneval: Sequence[str | None], **_columns: Any
    ) -> Rewards:
        """(completions,) rewards; None where there is nothing to judge, or no score under `none`."""
        judged = [index for index, row in enumerate(geneval) if row is not None]
        given: Rewards = [None] * len(completions)
        if not judged:
            return given
        tasks = [json.loads(geneval[index] or "") for index in judged]
        # Threads, for neither drawing nor the first call to the service may hold up the other reward functions.
        images = await asyncio.to_thread(render, [_text(completions[index]) for index in judged])
        requests = [task.get("prompt", "") for task in tasks]
        batch = await asyncio.wrap_future(await asyncio.to_thread(rewards.submit, images, requests, tasks))
        for index, total in zip(judged, batch.totals.tolist(), strict=True):
            given[index] = None if math.isnan(total) else total
        return given

    reward.__name__ = scorer  # what TRL logs it by
    return reward


def _text(completion: Any) -> str:
    """What the model wrote: TRL hands over text, or the messages of a conversation."""
    return str(completion if isinstance(completion, str) else completion[-1]["content"])
