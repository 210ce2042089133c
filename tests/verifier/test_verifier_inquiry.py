"""Conversations about an image: where it stands, and what the judge is taken to have said."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from assay.vision_language.inquiry import Inquiry

PIXELS = np.zeros((8, 8, 3), np.uint8)


def test_conversations_put_the_image_where_the_template_has_it() -> None:
    inquiry = Inquiry((PIXELS,), ("Look: <image> a cat?", "and a dog?"))
    image = {"type": "image"}
    look, cat = {"type": "text", "text": "Look: "}, {"type": "text", "text": " a cat?"}
    assert inquiry.messages([image], "yes", 1) == [{"role": "user", "content": [look, image, cat]}]
    assert inquiry.messages([image], "yes", 2)[1:] == [
        {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
        {"role": "user", "content": [{"type": "text", "text": "and a dog?"}]},
    ]
    assert Inquiry((PIXELS,), ("<image>?",)).messages([image], "yes", 1)[0]["content"] == [
        image,
        {"type": "text", "text": "?"},
    ]


def test_each_image_stands_where_its_mark_is() -> None:
    inquiry = Inquiry((PIXELS, PIXELS), ("First <image>, then <image>.", "Sure?"))
    first, second = {"type": "image_url", "image_url": "a"}, {"type": "image_url", "image_url": "b"}
    words = [{"type": "text", "text": text} for text in ("First ", ", then ", ".")]
    content = [words[0], first, words[1], second, words[2]]
    assert inquiry.messages([first, second], "yes", 1) == [{"role": "user", "content": content}]


@pytest.mark.parametrize("turns", [("no mark",), ("<image> <image>",), ("<image>", "and <image>?")])
def test_as_many_marks_as_images_and_all_in_the_first_turn(turns: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="<image> stands"):
        Inquiry((PIXELS,), turns)


def test_shipped_configurations_quote_their_words() -> None:
    folder = Path(__file__).parents[2] / "configs" / "services"
    for path in sorted(folder.glob("verifier*.yaml")):
        words = yaml.safe_load(path.read_text())["scorer"]["answers"]
        assert (words["affirmative"], words["negative"]) == ("yes", "no")
