"""`assay infer`: pictures of the base model beside those of the model with a LoRA, from the same noise, and scored.

The prompt is drawn from a file of test tasks, unless one is given; a drawn one comes with a task to be scored on.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from pydantic import Field

from assay.client import RewardClient
from assay.client_tls import ClientTls
from assay.client_token import token_arguments
from assay.config import load_config
from assay.errors import ConfigError
from assay.files import write_whole
from assay.outcomes import Failed, Outcome, Scored
from assay.tasks import GenEvalTask
from generators.text_to_image import TextToImage, load_pipeline
from trainer.prompts import PromptTask, read_prompts, stable_seed

WAIT_FOR_SERVICE_S = 60.0


class InferenceSettings(ClientTls):
    """The arguments of `assay infer`; names and defaults are those of the system's own description.

    Args:
        lora_path: folder of a LoRA, of a training run, or of one of its checkpoints.
        model_name: the base model: folder or hub name.
        custom_prompt: instead of one drawn from `prompts`.
        prompts: JSONL of test tasks in GenEval's form.
        num_images: of each model.
        height: of the images in pixels.
        width: likewise.
        num_steps: denoising steps.
        guidance_scale: of classifier-free guidance.
        seed: of the noise, and of the draw of the prompt.
        output_dir: for the pictures, `comparison.png` and `results.json`.
        device_id: number of the GPU; the CPU is used where there is none.
        max_sequence_length: tokens of a prompt, for pipelines that have such an argument.
        target: address of a reward service that scores the pictures; not with a prompt of your own.
        scorer: which of its scorers judges.
    """

    lora_path: str
    model_name: str = "stabilityai/stable-diffusion-3.5-large"
    custom_prompt: str | None = None
    prompts: Path = Path("configs/train/prompts/coco_counting_10_test.jsonl")
    num_images: int = Field(default=4, ge=1)
    height: int = Field(default=512, ge=16)
    width: int = Field(default=512, ge=16)
    num_steps: int = Field(default=20, ge=1)
    guidance_scale: float = Field(default=7.5, ge=0)
    seed: int = 42
    output_dir: Path = Path("demo_outputs")
    device_id: int = Field(default=0, ge=0)
    max_sequence_length: int | None = Field(default=None, ge=0)
    target: str | None = None
    scorer: str = "counting"


def infer(config: Path | None, overrides: Sequence[str]) -> int:
    """Run `assay infer`.

    Raises:
        AssayError: settings, model, LoRA or prompts are wrong, or the service does not answer.
    """
    settings = load_config(InferenceSettings, config, overrides)
    prompt, task = _prompt(settings)
    if settings.target is not None:
        if task is None:
            raise ConfigError("target scores a prompt drawn from a file, which says what is right; not custom_prompt")
        with _client(settings) as client:
            client.wait_until_ready(WAIT_FOR_SERVICE_S)  # before minutes go into pictures
    images = sample_both(settings, prompt)
    _save_pictures(settings, images)
    outcomes = score_both(settings, prompt, task, images) if task is not None and settings.target is not None else {}
    _write(settings, prompt, images, outcomes)
    return 1 if any(isinstance(outcome, Failed) for judged in outcomes.values() for outcome in judged) else 0


def sample_both(settings: InferenceSettings, prompt: str) -> dict[str, list[Image.Image]]:
    """`num_images` pictures each of "base" and "tuned": the k-th of both start from the same noise."""
    device, dtype = _device(settings.device_id)
    pipeline = load_pipeline(settings.model_name, device, dtype, settings.lora_path)
    arguments = {
        "num_inference_steps": settings.num_steps,
        "guidance_scale": settings.guidance_scale,
        "height": settings.height,
        "width": settings.width,
        "max_sequence_length": settings.max_sequence_length,
    }
    model = TextToImage(pipeline, arguments)
    seeds = [stable_seed("infer", settings.seed, k) for k in range(settings.num_images)]
    tuned = model.generate([prompt] * len(seeds), seeds)
    pipeline.disable_lora()
    return {"base": model.generate([prompt] * len(seeds), seeds), "tuned": tuned}


def score_both(
    settings: InferenceSettings, prompt: str, task: GenEvalTask, images: dict[str, list[Image.Image]]
) -> dict[str, list[Outcome]]:
    """What the service says of every picture."""
    with _client(settings) as client:
        return {
            name: client.score(
                shown, scorer=settings.scorer, prompts=[prompt] * len(shown), tasks=[task] * len(shown), evidence=True
            )
            for name, shown in images.items()
        }


def _client(settings: InferenceSettings) -> RewardClient:
    return RewardClient([str(settings.target)], **token_arguments(), **settings.tls_files)


def _save_pictures(settings: InferenceSettings, images: dict[str, list[Image.Image]]) -> None:
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    for name, shown in images.items():
        for k, image in enumerate(shown):
            image.save(settings.output_dir / f"{name}_{k}.png")


def _prompt(settings: InferenceSettings) -> tuple[str, GenEvalTask | None]:
    if settings.custom_prompt is not None:
        return settings.custom_prompt, None
    drawn: PromptTask = random.Random(settings.seed).choice(read_prompts(settings.prompts))
    return drawn.prompt, drawn.task


def _device(device_id: int) -> tuple[str, torch.dtype]:
    visible = torch.cuda.device_count()
    if visible == 0:
        return "cpu", torch.float32
    if device_id >= visible:
        raise ConfigError(f"device_id = {device_id}; allowed: 0 to {visible - 1}, the GPUs that are visible")
    return f"cuda:{device_id}", torch.bfloat16


def _write(
    settings: InferenceSettings,
    prompt: str,
    images: dict[str, list[Image.Image]],
    outcomes: dict[str, list[Outcome]],
) -> None:
    folder = settings.output_dir
    scores = {name: [_said(outcome) for outcome in judged] for name, judged in outcomes.items()}
    write_whole(folder / "results.json", json.dumps({"prompt": prompt, "scores": scores}, indent=1) + "\n")
    _save_comparison(folder / "comparison.png", prompt, images, scores)
    print(f"{prompt}\nbase beside tuned: {folder / 'comparison.png'}")
    for name, judged in scores.items():
        values = [said["value"] for said in judged if said["value"] is not None]
        print(
            f"{name}: mean {settings.scorer} {np.mean(values):.3f} of {len(values)} scored"
            if values
            else f"{name}: none scored"
        )


def _said(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, Scored):
        return {"value": outcome.value, "why": outcome.evidence.reason if outcome.evidence else ""}
    return {"value": None, "why": f"no score: {outcome.message}"}


def _save_comparison(
    path: Path, prompt: str, images: dict[str, list[Image.Image]], scores: dict[str, list[dict[str, Any]]]
) -> None:
    """A row for each model, a column for each noise."""
    number = len(images["base"])
    figure = Figure(figsize=(2.6 * number, 6))
    axes = figure.subplots(2, number, squeeze=False)
    for row, (name, shown) in enumerate(images.items()):
        for column, image in enumerate(shown):
            axis = axes[row][column]
            axis.imshow(image, interpolation="nearest")
            axis.axis("off")
            value = scores[name][column]["value"] if name in scores else None
            axis.set_title(name if value is None else f"{name}: {value:.2f}", fontsize=9)
    figure.suptitle(prompt, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
