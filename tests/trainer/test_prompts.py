"""Which samples an epoch holds, and who gets them."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from assay.errors import ConfigError
from assay.tasks import GenEvalTask, ObjectClause
from trainer.prompts import PromptTask, draw_epoch, draw_evaluation, read_prompts
from trainer.rollout import process_share

ROOT = Path(__file__).parents[2]


def _prompts(number: int) -> list[PromptTask]:
    return [PromptTask(f"p{i}", GenEvalTask("counting", (ObjectClause("apple", i + 1),))) for i in range(number)]


@given(
    processes=st.sampled_from([1, 2, 4]),
    steps=st.sampled_from([1, 2]),
    groups_per_share=st.integers(1, 4),
    group_size=st.integers(2, 5),
)
def test_processes_share_every_optimizer_step_in_whole_groups(
    processes: int, steps: int, groups_per_share: int, group_size: int
) -> None:
    num_groups = processes * steps * groups_per_share
    epoch = draw_epoch(_prompts(3), epoch=1, num_groups=num_groups, group_size=group_size, seed=7)
    shares = [
        process_share(epoch, process=rank, num_processes=processes, optimizer_steps=steps) for rank in range(processes)
    ]
    alone = process_share(epoch, process=0, num_processes=1, optimizer_steps=steps)
    for step in range(steps):
        assert [sample for share in shares for sample in share[step]] == alone[step]
        for share in shares:
            assert set(Counter(sample.group for sample in share[step]).values()) == {group_size}


def test_groups_of_equal_prompts_do_not_merge_and_no_seed_repeats() -> None:
    epochs = [draw_epoch(_prompts(2), epoch=epoch, num_groups=6, group_size=4, seed=0) for epoch in (0, 1)]
    samples = [sample for epoch in epochs for sample in epoch]
    assert len({sample.group for sample in samples}) == 12
    assert len({sample.seed for sample in samples}) == 48
    assert set(Counter(sample.prompt.prompt for sample in epochs[0]).values()) == {12}
    assert epochs[0] == draw_epoch(_prompts(2), epoch=0, num_groups=6, group_size=4, seed=0)
    held_out = draw_evaluation(_prompts(2), number=48, seed=0)
    assert not {sample.seed for sample in held_out} & {sample.seed for sample in samples}


def test_every_prompt_file_of_the_configurations_is_read() -> None:
    files = sorted((ROOT / "configs/train/prompts").glob("*.jsonl"))
    assert files
    for file in files:
        for prompt in read_prompts(file):
            assert prompt.task.include[0].count >= 1
    train, test = (
        read_prompts(ROOT / f"configs/train/prompts/coco_counting_10_{part}.jsonl") for part in ("train", "test")
    )
    assert not {prompt.prompt for prompt in train} & {prompt.prompt for prompt in test}
    assert len({prompt.task.include[0].class_name for prompt in train}) == 80


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no line"),
        ("{", "line 1 is not JSON"),
        (json.dumps({"tag": "counting", "include": []}), "line 1 lacks the field 'prompt'"),
        (json.dumps({"prompt": "x", "tag": "counting", "include": [{"count": 1}]}), "line 1 lacks the field 'class'"),
    ],
)
def test_bad_prompt_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_prompts(file)
    with pytest.raises(ConfigError, match="does not exist"):
        read_prompts(tmp_path / "absent.jsonl")


def _with_references(folder: Path, *names: str) -> Path:
    """A prompt file, a line for each of `names`, which are separated by blanks."""
    rows = [{"prompt": "x", "tag": "counting", "include": [], "references": line.split()} for line in names]
    file = folder / "prompts.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def test_references_that_differ_are_refused_by_line_before_a_run_meets_them(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "square.png")
    Image.new("RGB", (64, 32)).save(tmp_path / "wide.png")
    assert len(read_prompts(_with_references(tmp_path, "square.png wide.png", "square.png wide.png"))) == 2
    with pytest.raises(
        ConfigError, match=r"prompts\.jsonl: .*same number and sizes; line 1 has 64x64, line 3 has 64x32"
    ):
        read_prompts(_with_references(tmp_path, "square.png", "square.png", "wide.png"))
    with pytest.raises(ConfigError, match=r"line 1 has 64x64, line 2 has 64x64 64x64"):
        read_prompts(_with_references(tmp_path, "square.png", "square.png square.png"))
    with pytest.raises(ConfigError, match=r"line 1 has 64x64, line 2 has none"):
        read_prompts(_with_references(tmp_path, "square.png", ""))


def test_a_reference_that_is_no_picture_is_refused_by_line(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"line 1: reference .*broken\.png is not an image that can be read"):
        read_prompts(_with_references(tmp_path, "broken.png"))
