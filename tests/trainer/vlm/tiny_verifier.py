"""A tiny model with random weights, and a handful of red and blue pictures that a verifier can learn to tell apart."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from assay.questions import read_questions
from miniature.vlm import build_vlm, save_vlm

QUESTIONS = read_questions()
PROMPT = "a photo of a red cup"


def save_model(folder: Path) -> Path:
    texts = [template.text for template in QUESTIONS.values()]
    return save_vlm(folder, *build_vlm(texts, width=64, text_layers=2, vision_width=64, vision_layers=1))


def save_picture(path: Path, number: int, *, red: bool) -> str:
    """Noise, redder or bluer; returns the file's name."""
    pixels = np.random.default_rng(number).integers(0, 90, (64, 64, 3), dtype=np.uint8)
    pixels[..., 0 if red else 2] += 150
    Image.fromarray(pixels).save(path / f"{number:02d}.png")
    return f"{number:02d}.png"


def outcome(identity: str, image: str, answer: str) -> dict[str, Any]:
    said = [QUESTIONS["orm"].fill(prompt=PROMPT), answer]
    return _row(identity, image, said, ["orm"])


def progress(identity: str, image: str, answers: list[str]) -> dict[str, Any]:
    """About clarity, and potential where there are two answers."""
    kinds = ["clarity", "potential"][: len(answers)]
    places = {"prompt": PROMPT, "step": "15", "num_steps": "18"}
    said = [
        text for kind, answer in zip(kinds, answers, strict=True) for text in (QUESTIONS[kind].fill(**places), answer)
    ]
    return _row(identity, image, said, kinds)


def save_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(rows))
    return path


def save_orm_data(folder: Path, first: int = 0, number: int = 8) -> Path:
    """Red is right, blue is not."""
    folder.mkdir(exist_ok=True)
    numbers = range(first, first + number)
    rows = [outcome(str(n), save_picture(folder, n, red=n % 2 == 0), "no" if n % 2 else "yes") for n in numbers]
    return save_rows(folder / f"orm_{first}.json", rows)


def _row(identity: str, image: str, said: list[str], kinds: list[str]) -> dict[str, Any]:
    turns = [{"from": "gpt" if n % 2 else "human", "value": text} for n, text in enumerate(said)]
    return {"id": identity, "image": image, "conversations": turns, "kinds": kinds}
