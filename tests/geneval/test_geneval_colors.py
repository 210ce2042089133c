"""Colours: the crop that CLIP sees, and GenEval's zero-shot arithmetic on a CLIP of random weights."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from assay.serving.model_files import ModelLoadError
from services.geneval.colors import BACKGROUND, ClipColors, ColorQuestion, crop_object
from services.geneval.detectors.detector import DetectedObject
from services.geneval.vocabulary import COLORS

Box = tuple[float, float, float, float]


def _image(height: int = 20, width: int = 30) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _question(image: NDArray[np.uint8], box: Box, label: str = "apple") -> ColorQuestion:
    return ColorQuestion(image, DetectedObject(label, 0.9, box))


@pytest.fixture(scope="module")
def colors(clip_folder: Path) -> ClipColors:
    return ClipColors(str(clip_folder), device="cpu")


def test_crop_is_the_box_with_edges_rounded() -> None:
    image = _image()
    crop = crop_object(image, DetectedObject("apple", 0.9, (3.4, 4.6, 9.6, 12.2)))
    assert np.array_equal(crop, image[5:12, 3:10])


def test_outside_the_mask_the_crop_is_grey() -> None:
    image = _image()
    mask = np.zeros((20, 30), bool)
    mask[6:8, 4:6] = True
    crop = crop_object(image, DetectedObject("apple", 0.9, (3, 5, 7, 9), mask))
    assert crop.shape == (4, 4, 3)
    assert np.array_equal(crop[1:3, 1:3], image[6:8, 4:6])
    crop[1:3, 1:3] = BACKGROUND
    assert (crop == 0x99).all()


@pytest.mark.parametrize("box", [(5, 5, 5, 5), (5, 5, 5.4, 9), (30, 20, 30, 20), (-5, -5, 0, 0), (100, 100, 200, 200)])
def test_boxes_without_area_still_give_a_pixel(box: Box) -> None:
    crop = crop_object(_image(), DetectedObject("apple", 0.9, box))
    assert min(crop.shape) >= 1


def test_slivers_are_cut_about_their_centre_so_that_scaling_them_stays_small() -> None:
    image = _image(10, 2000)
    crop = crop_object(image, DetectedObject("apple", 0.9, (100, 4, 1900, 5)))
    assert np.array_equal(crop, image[4:5, 998:1002])


def test_color_is_the_best_of_averaged_unit_text_features(colors: ClipColors) -> None:
    image = _image(32, 32)
    inputs = colors._processor(images=[image], return_tensors="pt", input_data_format="channels_last")
    similarities = []
    with torch.inference_mode():
        picture = colors._model.get_image_features(**inputs).pooler_output[0]
        for color in COLORS:
            texts = [f"a photo of a {color} kite", f"a photo of a {color}-colored kite", f"a photo of a {color} object"]
            rows = [colors._tokenizer(text, return_tensors="pt") for text in texts]
            features = [colors._model.get_text_features(**row).pooler_output[0] for row in rows]
            mean = torch.stack([feature / feature.norm() for feature in features]).mean(0)
            similarities.append(float(picture @ (mean / mean.norm())))
    expected = COLORS[int(np.argmax(similarities))]
    assert colors.name_colors([_question(image, (0, 0, 32, 32), "kite")]) == [expected]


def test_colors_are_the_same_alone_and_in_a_batch(colors: ClipColors, clip_folder: Path) -> None:
    solid = [np.full((24, 24, 3), color, np.uint8) for color in [(255, 0, 0), (0, 0, 255), (0, 255, 0), (9, 9, 9)]]
    questions = [_question(image, (2, 3, 20, 22), label) for image in solid for label in ("apple", "kite")]
    together = colors.name_colors(questions)
    assert together == [colors.name_colors([question])[0] for question in questions]
    assert together == ClipColors(str(clip_folder), device="cpu", max_crops_per_pass=3).name_colors(questions)


def test_text_side_is_computed_once_a_class(colors: ClipColors, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = colors._model.get_text_features
    monkeypatch.setattr(colors._model, "get_text_features", lambda **inputs: calls.append(inputs) or original(**inputs))
    for _ in range(3):
        colors.name_colors([_question(_image(), (0, 0, 9, 9), label) for label in ("donut", "cup", "donut")])
    assert len(calls) == 2


def test_all_crops_of_a_call_share_one_forward_pass(colors: ClipColors, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    original = colors._model.get_image_features
    monkeypatch.setattr(
        colors._model, "get_image_features", lambda pixels: sizes.append(len(pixels)) or original(pixels)
    )
    colors.name_colors([_question(_image(), (0, 0, 5 + i, 9)) for i in range(7)])
    assert sizes == [7]


def test_model_of_another_kind_is_refused(mask2former_folder: Path) -> None:
    with pytest.raises(ModelLoadError):
        ClipColors(str(mask2former_folder))


def test_missing_tokenizer_is_refused(clip_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(clip_folder, tmp_path / "clip"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(ModelLoadError, match="no usable tokenizer"):
        ClipColors(str(folder))


@pytest.mark.slow
def test_full_size_architecture_loads_and_names_colors(clip_folder: Path, tmp_path: Path) -> None:
    """The shape of openai/clip-vit-large-patch14 (428 M parameters), with random weights."""
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    tokens = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = CLIPConfig(text_config={**text, **tokens}, vision_config={**vision, "patch_size": 14}, projection_dim=768)
    model = CLIPModel(config)
    assert 427e6 < sum(parameter.numel() for parameter in model.parameters()) < 429e6
    model.save_pretrained(tmp_path)
    CLIPImageProcessorPil().save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(clip_folder / name, tmp_path)
    questions = [_question(_image(), box) for box in ((0, 0, 9, 9), (3, 3, 20, 9))]
    assert set(ClipColors(str(tmp_path), device="cpu").name_colors(questions)) <= set(COLORS)


def test_no_questions_no_colors(colors: ClipColors) -> None:
    assert colors.name_colors([]) == []
