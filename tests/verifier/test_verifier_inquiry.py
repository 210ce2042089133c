"""Conversations about an image: where it stands, and what the judge is taken to have said."""

from pathlib import Path

import numpy as np
import yaml

from services.verifier.inquiry import Inquiry

PIXELS = np.zeros((8, 8, 3), np.uint8)


def test_conversations_put_the_image_where_the_template_has_it() -> None:
    inquiry = Inquiry(PIXELS, ("Look: <image> a cat?", "and a dog?"))
    image = {"type": "image"}
    look, cat = {"type": "text", "text": "Look: "}, {"type": "text", "text": " a cat?"}
    assert inquiry.messages(image, "yes", 1) == [{"role": "user", "content": [look, image, cat]}]
    assert inquiry.messages(image, "yes", 2)[1:] == [
        {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
        {"role": "user", "content": [{"type": "text", "text": "and a dog?"}]},
    ]
    assert Inquiry(PIXELS, ("<image>?",)).messages(image, "yes", 1)[0]["content"] == [
        image,
        {"type": "text", "text": "?"},
    ]


def test_shipped_configurations_quote_their_words() -> None:
    folder = Path(__file__).parents[2] / "configs" / "services"
    for path in sorted(folder.glob("verifier*.yaml")):
        words = yaml.safe_load(path.read_text())["scorer"]["answers"]
        assert (words["affirmative"], words["negative"]) == ("yes", "no")
