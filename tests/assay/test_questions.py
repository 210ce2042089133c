"""What verifiers are asked, and trained on: every byte of it."""

import hashlib
from pathlib import Path

import pytest

from assay.errors import ConfigError
from assay.questions import IMAGE, QUESTION_FILES, QuestionFiles, content_parts, fill, read_questions, read_template


def _read(folder: Path, text: str, *, needs: tuple[str, ...] = (IMAGE, "prompt")) -> str:
    (folder / "asked.txt").write_text(text, encoding="utf-8")
    return read_template(folder / "asked.txt", "templates.orm", needs=needs, may_have=("step",)).text


def test_the_question_of_published_verifiers_is_theirs_to_the_byte() -> None:
    """Length and digest as published checkpoints were tuned on it, with {p} for the prompt."""
    template = read_template(QUESTION_FILES / "orm.txt", "templates.orm", needs=(IMAGE, "prompt"))
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


def test_questions_of_ones_own_take_the_place_of_ours_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("<image> {prompt}, at {step} of {num_steps}?\n")
    ours, mine = read_questions(), read_questions(QuestionFiles(clarity=tmp_path / "mine.txt"))
    assert mine["clarity"].fill(prompt="a cat", step="3", num_steps="18") == "<image> a cat, at 3 of 18?"
    assert (mine["orm"].text, mine["potential"].text) == (ours["orm"].text, ours["potential"].text)
    with pytest.raises(ConfigError, match=r"questions\.orm = .*\{step\} is unknown"):
        read_questions(QuestionFiles(orm=tmp_path / "mine.txt"), "questions")


def test_content_has_an_image_for_each_mark_and_no_empty_text() -> None:
    image = {"type": "image"}
    assert content_parts("no image", image) == [{"type": "text", "text": "no image"}]
    assert content_parts("<image><image> both?", image) == [image, image, {"type": "text", "text": " both?"}]
