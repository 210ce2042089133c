"""Flow-GRPO (arXiv 2505.05470) whole, in one file to be read from top to bottom.

    assay serve geneval &
    python examples/minimal_flow_grpo.py --output runs/minimal

It puts a LoRA on a Stable Diffusion 3 pipeline, and repeats: sample groups of images of the same prompt with a sampler
that leaves something to chance, have each group scored by a reward service while the next one is sampled, and make more
likely what scored better than its group's mean. It needs `assay.client`, torch, diffusers and peft.

It leaves out, and `assay train` has: classifier-free guidance, the KL to the reference model, other choices of steps,
other algorithms, averaged weights, mixed precision, several GPUs, several weighted rewards, evaluation on held-out
seeds, checkpoints and resuming, logs and galleries.
"""

import argparse
import itertools
import json
import math
import os
import random
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline as Pipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor
from torch.optim import Optimizer

from assay.client import RewardClient
from assay.outcomes import Failed, Outcome

Text = tuple[Tensor, Tensor]  # tokens (batch, sequence, width) and pooled embedding (batch, width) of prompts

NOISE_LEVEL = 0.7  # eta, how far the sampler explores; the paper's
UPDATES = 4  # optimizer steps an epoch; the first is on-policy, the others slightly off
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


# ---- The model ------------------------------------------------------------------------------------------------------
def load_pipeline(model: str) -> Pipeline:
    """Load a folder or a name on the hub. Components that its index leaves out (a T5, say) must be named as None."""
    index = Path(model) / "model_index.json"
    named = json.loads(index.read_text()) if index.is_file() else {}
    absent = {name: None for name, value in named.items() if isinstance(value, list) and not any(value)}
    pipe = Pipeline.from_pretrained(model, dtype=torch.float32, **absent)
    return pipe.to("cuda" if torch.cuda.is_available() else "cpu")


def add_lora(transformer: Any) -> list[torch.nn.Parameter]:
    """Freeze the model, and return the parameters of a fresh LoRA on its attention, the only ones that train."""
    transformer.requires_grad_(False)
    targets = [f"attn.{name}" for name in LORA_TARGETS]
    transformer.add_adapter(LoraConfig(r=32, lora_alpha=64, init_lora_weights="gaussian", target_modules=targets))
    return [parameter for parameter in transformer.parameters() if parameter.requires_grad]


@torch.no_grad()
def encode(pipe: Pipeline, prompt: str, number: int) -> Text:
    """A prompt, `number` times."""
    length = 0 if pipe.text_encoder_3 is None else 128
    encoded = pipe.encode_prompt(prompt, None, None, do_classifier_free_guidance=False, max_sequence_length=length)
    return encoded[0].expand(number, -1, -1), encoded[2].expand(number, -1)


@torch.no_grad()
def decode(pipe: Pipeline, latents: Tensor) -> list[Any]:
    """Images, each (height, width, 3) uint8."""
    latents = latents / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor
    decoded = pipe.vae.decode(latents, return_dict=False)[0]
    if not decoded.isfinite().all():
        raise ArithmeticError("a sampled image is not finite: the policy has diverged")
    pixels = ((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return list(pixels.permute(0, 2, 3, 1).cpu().numpy())


# ---- The stochastic sampler (section 4 of the paper) ----------------------------------------------------------------
# Rectified flow: x = (1 - sigma) image + sigma noise, and the network predicts the velocity v = noise - image. Its
# usual step, x + v dt, explores nothing. This one has the same marginals, and draws from a Gaussian of known density.
def gaussian_of_step(
    x: Tensor, velocity: Tensor, sigma: Tensor, sigma_next: Tensor, sigma_second: Tensor, noise_level: float
) -> tuple[Tensor, Tensor]:
    """Mean (batch, C, H, W) and standard deviation (a scalar) of the step from `sigma` down to `sigma_next`.

    s    = noise_level sqrt(sigma / (1 - sigma)); where sigma is 1, the schedule's second level is in the denominator
    mean = x (1 + s^2 dt / (2 sigma)) + v (1 + s^2 (1 - sigma) / (2 sigma)) dt,   dt = sigma_next - sigma < 0
    std  = s sqrt(-dt)
    """
    dt = sigma_next - sigma
    s = noise_level * torch.sqrt(sigma / (1 - (sigma_second if sigma == 1 else sigma)))
    mean = x * (1 + s**2 / (2 * sigma) * dt) + velocity * (1 + s**2 * (1 - sigma) / (2 * sigma)) * dt
    return mean, s * torch.sqrt(-dt)


def log_probability(x_next: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(batch,) log-density, as a mean (not a sum) over the latent's dimensions: hence the small clip range."""
    density = -((x_next - mean) ** 2) / (2 * std**2) - std.log() - 0.5 * math.log(2 * math.pi)
    return density.flatten(1).mean(1)


def policy_step(pipe: Pipeline, x: Tensor, index: int, text: Text) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the Gaussian that the policy draws from at step `index` in state `x`."""
    sigmas = pipe.scheduler.sigmas.to(x.device)  # (steps + 1,), from 1 down to 0
    timestep = (sigmas[index] * pipe.scheduler.config.num_train_timesteps).expand(len(x))
    velocity = pipe.transformer(x, *text, timestep, return_dict=False)[0]
    return gaussian_of_step(x, velocity, sigmas[index], sigmas[index + 1], sigmas[1], NOISE_LEVEL)


@torch.no_grad()
def sample(pipe: Pipeline, text: Text, pixels: int, noise: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sample images of `pixels` x `pixels`, one for each entry of `text`, and remember every step.

    Returns:
        States (batch, steps + 1, C, H, W) from noise to image, and the log-probability (batch, steps) of each step.
    """
    side = pixels // pipe.vae_scale_factor
    shape = (len(text[0]), pipe.transformer.config.in_channels, side, side)
    states, log_probs = [torch.randn(shape, generator=noise).to(pipe.device)], []
    for index in range(len(pipe.scheduler.sigmas) - 1):
        mean, std = policy_step(pipe, states[-1], index, text)
        states.append(mean + std * torch.randn(shape, generator=noise).to(pipe.device))
        log_probs.append(log_probability(states[-1], mean, std))
    return torch.stack(states, 1), torch.stack(log_probs, 1)


# ---- From scores to a better policy ---------------------------------------------------------------------------------
@dataclass
class Group:
    """Images of one prompt: how they came about, and their scores, which may be on their way."""

    text: Text
    states: Tensor
    log_probs: Tensor
    scores: Future[list[Outcome]]


def rewards_of(outcomes: Sequence[Outcome]) -> Tensor | None:
    """(size,) rewards; None if an image has no score. A failure is no number, so its whole group teaches nothing."""
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    if failures:
        print(f"a group is dropped: {len(failures)} of its images have no score ({failures[0].message})")
        return None
    return torch.tensor([outcome.value for outcome in outcomes if not isinstance(outcome, Failed)])


def advantages_of(rewards: Sequence[Tensor | None]) -> list[Tensor | None]:
    """A_i = (r_i - mean of its group) / (deviation of all rewards + 1e-4), within +-5; None for a group without any.

    The published code divides by the deviation of all rewards; the paper's formula, by that of the group's own.
    """
    spread = torch.cat([own for own in rewards if own is not None] or [torch.zeros(1)]).std(correction=0)
    return [
        None if own is None or own.min() == own.max() else ((own - own.mean()) / (spread + 1e-4)).clamp(-5, 5)
        for own in rewards
    ]


def update(pipe: Pipeline, optimizer: Optimizer, batch: Sequence[tuple[Group, Tensor | None]], clip: float) -> float:
    """One optimizer step on the clipped loss max(-A r, -A clamp(r, 1 - c, 1 + c)), r = p / (p when sampled).

    Only the first half of the steps is trained, where it is decided what goes where. The groups go through the network
    as they did in sampling, so that before the first update every r is exactly 1. Returns the largest |r - 1|.
    """
    useful = [(group, advantages.to(pipe.device)) for group, advantages in batch if advantages is not None]
    largest = 0.0
    for group, advantages in useful:
        trained_steps = group.log_probs.shape[1] // 2
        for index in range(trained_steps):
            mean, std = policy_step(pipe, group.states[:, index], index, group.text)
            log_prob = log_probability(group.states[:, index + 1], mean, std)
            ratio = torch.exp(log_prob - group.log_probs[:, index])
            loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)).mean()
            (loss / (trained_steps * len(useful))).backward()
            largest = max(largest, (ratio.detach() - 1).abs().max().item())
    if useful:
        torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return largest


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Flow-GRPO in one file. `assay train` has more.")
    parser.add_argument("--model", default="miniature/weights/sd3", help="SD3-class pipeline: a folder, or a hub name")
    parser.add_argument("--pixels", type=int, help="side of the images; default: what the model was made for")
    parser.add_argument("--target", nargs="+", default=["localhost:50051"], help="replicas of the reward service")
    parser.add_argument("--scorer", default="counting", help="which of its scorers gives the reward")
    parser.add_argument("--prompts", default="configs/train/prompts/miniature_counting.jsonl", help="GenEval rows")
    parser.add_argument("--output", default="runs/minimal_flow_grpo", help="folder for the LoRA")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--groups", type=int, default=16, help="prompts an epoch")
    parser.add_argument("--group-size", type=int, default=16, help="images of each")
    parser.add_argument("--steps", type=int, default=8, help="of the sampler; the first half is trained")
    parser.add_argument("--learning-rate", type=float, default=1.5e-3, help="the paper's, for SD3.5-M: 3e-4")
    parser.add_argument("--clip", type=float, default=1e-3, help="c; the paper's: 1e-4")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    torch.manual_seed(args.seed)  # of the LoRA's start
    noise = torch.Generator().manual_seed(args.seed)
    lines = Path(args.prompts).read_text().splitlines()
    rows = itertools.cycle(random.Random(args.seed).sample([json.loads(line) for line in lines], len(lines)))
    pipe = load_pipeline(args.model)
    pipe.scheduler.set_timesteps(args.steps)
    optimizer = torch.optim.AdamW(add_lora(pipe.transformer), lr=args.learning_rate, weight_decay=1e-4)
    pixels = args.pixels or pipe.default_sample_size * pipe.vae_scale_factor

    with RewardClient(args.target, token=os.environ.get("ASSAY_TOKEN")) as client:
        fingerprints = {scorer.name: scorer.fingerprint for scorer in client.wait_until_ready(timeout_s=60)}
        for epoch in range(1, args.epochs + 1):
            start, groups = time.monotonic(), []
            for row in itertools.islice(rows, args.groups):
                text = encode(pipe, row["prompt"], args.group_size)
                states, log_probs = sample(pipe, text, pixels, noise)
                scores = client.submit(  # returns at once: the service works while the next group is sampled
                    decode(pipe, states[:, -1]),
                    scorer=args.scorer,
                    prompts=[row["prompt"]] * args.group_size,
                    tasks=[row] * args.group_size,
                    expected_fingerprint=fingerprints.get(args.scorer),  # it may not change in mid-run
                )
                groups.append(Group(text, states, log_probs, scores))

            rewards = [rewards_of(group.scores.result()) for group in groups]  # raises if no service answers
            batch = list(zip(groups, advantages_of(rewards), strict=True))
            cuts = [len(batch) * number // UPDATES for number in range(UPDATES + 1)]
            off = [update(pipe, optimizer, batch[a:b], args.clip) for a, b in itertools.pairwise(cuts)]
            scored = [own for own in rewards if own is not None]
            mean = f"{torch.cat(scored).mean():.3f}" if scored else "unknown"
            print(f"epoch {epoch}: reward {mean}, {len(scored)} of {len(groups)} groups scored", end=", ")
            print(f"first ratio off by {off[0]:g}, {time.monotonic() - start:.1f} s", flush=True)
    Pipeline.save_lora_weights(
        args.output,
        transformer_lora_layers=get_peft_model_state_dict(pipe.transformer),
        # Without this, alpha would be taken to be the rank, and the LoRA be loaded at half its strength.
        transformer_lora_adapter_metadata=pipe.transformer.peft_config["default"].to_dict(),
    )
    print(f'done; pipe.load_lora_weights("{args.output}") loads it')


if __name__ == "__main__":
    main()
