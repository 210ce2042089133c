"""Templates and conversations: every byte that reaches a judge."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import yaml

from assay.errors import ConfigError
from services.verifier.questions import IMAGE, Inquiry, fill, read_template
from services.verifier.service import OUR_TEMPLATES

PIXELS = np.zeros((8, 8, 3), np.uint8)


def _read(folder: Path, text: str, *, needs: tuple[str, ...] = (IMAGE, "prompt")) -> str:
    (folder / "asked.txt").write_text(text, encoding="utf-8")
    return read_template(folder / "asked.txt", "templates.orm", needs=needs, may_have=("step",)).text


def test_the_question_of_published_verifiers_is_theirs_to_the_byte() -> None:
    """Length and digest as published checkpoints were tuned on it, with {p} for the prompt."""
    template = read_template(OUR_TEMPLATES / "orm.txt", "templates.orm", needs=(IMAGE, "prompt"))
    published = template.text.replace("{prompt}", "{p}")
    assert len(published) == 143
    assert hashlib.sha256(published.encode()).hexdigest().startswith("ab805c59b8729d1e")


def test_nothing_is_stripped_but_the_last_line_break(tmp_path: Path) -> None:
    assert _read(tmp_path, "<image> \n  {prompt} \n\n") == "<image> \n  {prompt} \n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<image> Is it good?", "{prompt} is missing"),
        ("Does it show {prompt}?", "<image> stands in it 0 times; allowed: 1"),
        ("<image><image> {prompt}", "<image> stands in it 2 times; allowed: 1"),
        ("<image> {prompt} {seed}", "{seed} is unknown; allowed: {prompt}, {step}"),
        ("\n", "it is empty"),
    ],
)
def test_template_errors_name_field_file_and_what_is_allowed(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        _read(tmp_path, text)
    assert "templates.orm = " in str(caught.value)
    assert "asked.txt" in str(caught.value)
    assert said in str(caught.value)


def test_a_follow_up_has_no_image_and_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stands in it 1 times; allowed: 0"):
        _read(tmp_path, "<image> Can it?", needs=())
    with pytest.raises(ConfigError, match=r"nowhere\.txt"):
        read_template(tmp_path / "nowhere.txt", "templates.orm", needs=())


def test_braces_in_a_prompt_stay_braces() -> None:
    assert fill("{prompt} at {step}", prompt="{step} of {prompt}", step="3") == "{step} of {prompt} at 3"
    assert fill("{unknown}", prompt="x") == "{unknown}"


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
