"""The command that scores stored detections: its output, and what it says of lines it cannot read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent.parent / "golden" / "geneval_rules.jsonl"
GOOD = {
    "metadata": {"tag": "counting", "include": [{"class": "apple", "count": 1}], "prompt": "an apple"},
    "detections": {"apple": [[1, 2, 3, 4, 0.95]]},
}
VERDICT = {"correct": True, "strict_correct": True, "score": 1.0}


def _run(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "services.geneval.rules", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)


def _changed(path: str, value: object) -> str:
    """GOOD as a line, with one field replaced; None removes it."""
    record = json.loads(json.dumps(GOOD))
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    holder = record
    for part in parents:
        holder = holder[part]
    if value is None:
        del holder[last]
    else:
        holder[last] = value
    return json.dumps(record)


@pytest.mark.parametrize("compat", [True, False])
def test_command_equals_the_golden_file(compat: bool) -> None:
    result = _run(*(["--compat"] if compat else []), GOLDEN)
    assert (result.returncode, result.stderr) == (0, "")
    verdicts = [json.loads(line) for line in result.stdout.splitlines()]
    golden = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
    for name in ("correct", "strict_correct", *(["score"] if compat else [])):
        assert [verdict[name] for verdict in verdicts] == [record[name] for record in golden], name


def test_standard_input_and_blank_lines() -> None:
    result = _run("-", stdin=f"{json.dumps(GOOD)}\n\n{json.dumps(GOOD)}\n")
    assert [json.loads(line) for line in result.stdout.splitlines()] == [VERDICT, VERDICT]
    assert result.returncode == 0


def test_rules_need_no_model_library() -> None:
    code = "import services.geneval.stored, sys; print(*{'torch', 'numpy', 'transformers', 'grpc'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "the line"),
        ("[1]", "the line is [1]; allowed: a JSON object"),
        ("1" * 5000, "the line"),
        (_changed("metadata", None), "metadata is missing"),
        (_changed("detections", None), "detections is missing"),
        (_changed("metadata.tag", None), "metadata.tag is missing"),
        (_changed("metadata.tag", "counts"), "metadata.tag is 'counts'; allowed: single_object"),
        (_changed("metadata.include", []), "metadata.include is []"),
        (_changed("metadata.include.0.class", None), "metadata.include[0].class is missing"),
        (_changed("metadata.include.0.count", 0), "metadata.include[0].count is 0; allowed: 1 or more"),
        (_changed("metadata.include.0.count", 1.5), "metadata.include[0].count is 1.5; allowed: a whole number"),
        (_changed("metadata.include.0.count", True), "metadata.include[0].count is True"),
        (_changed("metadata.include.0.color", "mauve"), "metadata.include[0].color is 'mauve'; allowed: red, orange"),
        (
            _changed("metadata.include.0.position", ["near", 0]),
            "metadata.include[0].position[0] is 'near'; allowed: left of",
        ),
        (_changed("metadata.include.0.position", ["above", 0]), "metadata.include[0].position[1] is 0; allowed"),
        (_changed("metadata.include.0.position", "above"), "metadata.include[0].position is 'above'"),
        (_changed("detections.apple.0", [1, 2, 3, 4]), "detections.apple[0] is [1, 2, 3, 4]; allowed: five numbers"),
        (_changed("detections.apple.0.0", float("nan")), "detections.apple[0]"),
        (_changed("detections.apple.0.0", 9), "allowed: x1 <= x2"),
        (_changed("detections.apple.0.4", 1.5), "detections.apple[0][4] is 1.5; allowed: a confidence from 0 to 1"),
    ],
)
def test_bad_line_is_named_and_the_rest_is_scored(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "stored.jsonl"
    file.write_text(f"{json.dumps(GOOD)}\n{line}\n{json.dumps(GOOD)}\n")
    result = _run(file)
    first, bad, last = (json.loads(entry) for entry in result.stdout.splitlines())
    assert result.returncode == 1
    assert first == last == VERDICT
    assert list(bad) == ["error"]
    assert bad["error"].startswith(f"{file}:2: ")
    assert said in bad["error"]
    assert result.stderr == f"error: {bad['error']}\n"


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00bad"])
def test_unreadable_file_is_one_clear_line(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "stored.jsonl"
    if content is not None:
        file.write_bytes(content)
    result = _run(file)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: cannot read {file}: ")
    assert result.stderr.count("\n") == 1
