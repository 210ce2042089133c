"""The miniature's Show-o draws what its model card says, on prompts, scenes and seeds that it was not trained on."""

from pathlib import Path

import numpy as np
import pytest
from counted import HELD_OUT, held_out_tasks, judge
from PIL import Image

from generators.showo.pipeline import ShowoPipeline
from generators.text_to_image import TextToImage
from miniature.recipes.showo_tokenizer import held_out_quality

WEIGHTS = Path(__file__).parents[2] / "miniature" / "weights" / "showo"


@pytest.fixture(scope="module")
def pipeline() -> ShowoPipeline:
    return ShowoPipeline.from_pretrained(WEIGHTS)


def test_objects_survive_the_codes(pipeline: ShowoPipeline) -> None:
    found = held_out_quality(pipeline.vq_model, 96)
    assert found["psnr_db"] >= 31
    assert found["exact_before"] >= 0.93
    assert found["exact_after"] >= 0.9


def test_it_has_learnt_to_draw_but_not_yet_to_count(pipeline: ShowoPipeline) -> None:
    tasks = held_out_tasks(per_prompt=2)
    model = TextToImage(pipeline, {})
    pictures: list[Image.Image] = []
    for start in range(0, len(tasks), 48):
        prompts = [task["prompt"] for task in tasks[start : start + 48]]
        pictures += model.generate(prompts, [HELD_OUT + start + index for index in range(len(prompts))])
    strict, present = judge(pictures, tasks)
    assert 0.2 <= strict.mean() <= 0.7
    assert present.mean() >= 0.7
    assert np.stack([np.asarray(picture) for picture in pictures]).std(0).mean() > 5  # not one picture for all
