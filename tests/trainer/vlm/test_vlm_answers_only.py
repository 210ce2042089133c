"""Only answers are learnt, and the text before them is what the verifier service asks with."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_verifier import PROMPT, QUESTIONS, outcome, progress, save_picture, save_rows
from transformers import AutoProcessor

from assay.errors import ConfigError
from assay.serving.model_files import ModelLoadError
from assay.vision_language.inquiry import Inquiry
from assay.vision_language.vision_language_model import VisionLanguageModel
from trainer.vlm.collator import IGNORED, AnswerCollator, moved
from trainer.vlm.conversations import Conversation, read_conversations
from trainer.vlm.rendering import Renderer
from trainer.vlm.yes_no import questions_of


@pytest.fixture(scope="module")
def processor(tiny_base: Path) -> Any:
    return AutoProcessor.from_pretrained(tiny_base)


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> list[Conversation]:
    """A question about an outcome, and two turns about an unfinished picture."""
    folder = tmp_path_factory.mktemp("two")
    rows = [
        outcome("short", save_picture(folder, 0, red=True), "yes"),
        progress("long", save_picture(folder, 1, red=False), ["yes", "no"]),
    ]
    return read_conversations(save_rows(folder / "data.json", rows))


def test_labels_are_the_answers_and_the_marks_that_end_them(processor: Any, conversations: list[Conversation]) -> None:
    batch = AnswerCollator(conversations, Renderer(processor))([{"index": 0}, {"index": 1}])
    ids, labels = batch["input_ids"], batch["labels"]
    assert labels.shape == ids.shape == batch["attention_mask"].shape
    learnt = labels != IGNORED
    assert torch.equal(labels[learnt], ids[learnt])
    assert [processor.decode(row[mask]) for row, mask in zip(ids, learnt, strict=True)] == [
        "yes<|im_end|>\n",
        "yes<|im_end|>\nno<|im_end|>\n",
    ]
    # What an answer follows upon is the mark that asks for it; padding is on the right, and not learnt.
    for row, mask in zip(ids, learnt, strict=True):
        starts = [n for n in mask.nonzero()[:, 0].tolist() if not mask[n - 1]]
        assert all(processor.decode(row[:n]).endswith("<|im_start|>assistant\n") for n in starts)
    assert batch["attention_mask"][0].tolist() == sorted(batch["attention_mask"][0].tolist(), reverse=True)
    assert batch["pixel_values"].shape == (2, 3, 64, 64)


def test_the_model_reads_in_training_what_it_reads_when_it_is_asked(
    processor: Any, conversations: list[Conversation], tiny_base: Path
) -> None:
    """Token for token, and pixel for pixel, for every answer."""
    served = VisionLanguageModel.load(str(tiny_base), affirmation="yes")
    batch = AnswerCollator(conversations, Renderer(processor))([{"index": 0}, {"index": 1}])
    places = {"prompt": PROMPT, "step": "15", "num_steps": "18"}
    asked = {
        0: (QUESTIONS["orm"].fill(prompt=PROMPT),),
        1: (QUESTIONS["clarity"].fill(**places), QUESTIONS["potential"].fill(**places)),
    }
    questions = iter(questions_of(conversations, Renderer(processor)))
    for index, turns in asked.items():
        pixels = np.asarray(Image.open(conversations[index].images[0]))
        for turn in range(1, len(turns) + 1):
            text = served.conversation(Inquiry((pixels,), turns), turn)
            assert next(questions).text == text
            inputs = served.inputs([text], [[pixels]])
            length = inputs["input_ids"].shape[1]
            assert torch.equal(batch["input_ids"][index, :length], inputs["input_ids"][0])
            assert batch["labels"][index, length] != IGNORED
            assert torch.equal(batch["pixel_values"][index], inputs["pixel_values"][0])


def test_characters_move_by_what_images_before_them_gained() -> None:
    replaced = [{"span": (2, 9), "new_span": (2, 16)}, {"span": (12, 19), "new_span": (19, 40)}]
    assert moved((0, 1), replaced) == (0, 1)
    assert moved((9, 12), replaced) == (16, 19)
    assert moved((20, 22), replaced) == (41, 43)


def test_templates_that_rewrite_earlier_turns_are_refused(tiny_base: Path, conversations: list[Conversation]) -> None:
    """As those that drop what a model thought before its last answer."""
    processor = AutoProcessor.from_pretrained(tiny_base)
    processor.chat_template = (
        "{% for message in messages %}{% if loop.last or message['role'] == 'user' %}{{ message['role'] }}: "
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}"
        "{% endif %}{% endfor %}\n{% endif %}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    renderer = Renderer(processor)
    renderer.with_answers(conversations[0])
    with pytest.raises(ConfigError, match=r"does not leave earlier turns as they were .conversation 'long', answer 0"):
        renderer.with_answers(conversations[1])
    processor.chat_template = None
    with pytest.raises(ModelLoadError, match="no chat template"):
        Renderer(processor)
