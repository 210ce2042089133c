"""The `assay` command: what it prints, and its exit codes."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from assay_doubles import MeanScorer, grey

from assay import cli, hand_over, pipeline_commands, serve_command
from assay.errors import ConfigError
from assay.images import encode
from assay.serving.settings import ServeConfig
from assay.testing import serve_in_background


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "grey.png"
    path.write_bytes(encode(grey(51), "PNG"))
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit code of `assay ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["assay", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


def test_score_prints_value_components_and_evidence(
    image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve_in_background([MeanScorer("outcome", tasks=("OutcomeTask",)), MeanScorer()]) as server:
        assert run(monkeypatch, "score", image, "--prompt", "grey", "--target", server.target) == 0
        printed = capsys.readouterr().out
        assert f"{image}: outcome = 0.2000" in printed
        assert "  pixels  256.0000" in printed
        assert "  because: because" in printed
        assert "  found: thing red  0.500  at (0, 0, 16, 16)" in printed


def test_score_prints_json_and_fails_if_an_image_has_no_score(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(image.read_bytes()[:30])
    with serve_in_background([MeanScorer("counting", tasks=("GenEvalTask",))]) as server:
        flags = ("--count", 3, "--class", "apple", "--target", server.target, "--json")
        assert run(monkeypatch, "score", image, broken, *flags) == 1
    good, bad = json.loads(capsys.readouterr().out)
    assert good["scorer"] == "counting"
    assert good["score"]["value"] == pytest.approx(0.2)
    assert bad["error"]["reason"] == "IMAGE_UNDECODABLE"


def test_score_names_what_is_wrong(
    image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve_in_background([MeanScorer("counting", tasks=("GenEvalTask",))]) as server:
        for arguments, code, message in (
            ((image,), 2, "say what the images should show"),
            ((image, "--prompt", "x", "--count", 3), 2, "name it with --class"),
            ((image.with_name("none.png"), "--prompt", "x"), 2, "cannot read"),
            ((image, "--prompt", "x"), 2, "no scorer there judges a OutcomeTask; served are: counting (GenEvalTask)"),
            ((image, "--class", "apple", "--scorer", "nope"), 1, "no scorer 'nope' is served"),
            ((image, "--prompt", "x", "--target", "127.0.0.1:1", "--deadline-s", 0.3), 1, "127.0.0.1:1"),
        ):
            target = () if "--target" in arguments else ("--target", server.target)
            assert run(monkeypatch, "score", *arguments, *target) == code
            error = capsys.readouterr().err
            assert message in error
            assert "Traceback" not in error


def test_serve_reads_both_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_service.py").write_text("def build_scorers(settings):\n    return [settings]\n")
    config = tmp_path / "toy.yaml"
    config.write_text("scorer: {threshold: 0.5}\nserve: {grpc_port: 0}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(serve_command.SERVICES, "toy", ("toy_service", str(config)))
    served: list[tuple[object, ServeConfig]] = []
    monkeypatch.setattr("assay.serving.lifecycle.serve", lambda *given: served.append(given[:2]) or 7)
    assert run(monkeypatch, "serve", "toy", "scorer.threshold=0.9", "serve.host=0.0.0.0", "--insecure") == 7
    [(scorers, settings)] = served
    assert scorers == [{"threshold": 0.9}]
    assert (settings.grpc_port, settings.host, settings.insecure) == (0, "0.0.0.0", True)


def test_the_token_may_lie_in_a_file(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "token"
    file.write_text("secret\n")
    monkeypatch.setenv("ASSAY_TOKEN", "")
    with serve_in_background([MeanScorer()], token="secret") as server:
        command = ("score", image, "--prompt", "grey", "--target", server.target)
        assert run(monkeypatch, *command) != 0
        assert "authorization" in capsys.readouterr().err
        monkeypatch.setenv("ASSAY_TOKEN_FILE", str(file))
        assert run(monkeypatch, *command) == 0


@pytest.mark.parametrize(("content", "message"), [(None, "No such file"), (" \n", "holds no token")])
def test_a_token_file_without_a_token_is_an_error_and_no_call_goes_out_without(
    content: str | None,
    message: str,
    image: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("ASSAY_TOKEN", "")
    monkeypatch.setenv("ASSAY_TOKEN_FILE", str(file))
    assert run(monkeypatch, "score", image, "--prompt", "grey", "--target", "127.0.0.1:1") == 2
    error = capsys.readouterr().err
    assert f"ASSAY_TOKEN_FILE = {file}" in error
    assert message in error


def test_serve_names_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "geneval.yaml"
    config.write_text("serve: {grpc_prot: 1}\n")
    assert run(monkeypatch, "serve", "geneval", "--config", config) == 2
    assert "unknown field serve.grpc_prot (did you mean grpc_port?" in capsys.readouterr().err
    assert run(monkeypatch, "serve", "nope") == 2
    assert "no service 'nope'; there are: geneval" in capsys.readouterr().err


def test_files_of_the_repository_are_found_from_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "x.yaml").write_text("")
    (tmp_path / "deep" / "down").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "down")
    assert serve_command.find_in_repository("configs/x.yaml") == tmp_path / "configs" / "x.yaml"
    with pytest.raises(ConfigError, match="was not found"):
        serve_command.find_in_repository("configs/nowhere.yaml")


def test_the_command_starts_without_heavy_imports() -> None:
    code = "import sys, assay.cli; print([name for name in ('grpc', 'numpy', 'PIL', 'torch') if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["--planning_model", "x"], ['planning_model="x"', "all_planning_models=false"]),
        (["--all_planning_models"], ["all_planning_models=true", "planning_model=null"]),
        (["--no_skip_existing", "--fail_fast"], ["continue_on_error=false", "skip_existing=false"]),
        (["--indices", "1e3", "--num_gpus", "0"], ["num_gpus=0", 'indices="1e3"']),
        ([], []),
    ],
)
def test_flags_of_generate_overrule_the_file(
    flags: list[str], wanted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    monkeypatch.setattr(pipeline_commands, "hand_over", lambda *arguments: seen.extend(arguments) or 0)
    assert run(monkeypatch, "generate", *flags) == 0
    assert seen == ["generate", None, wanted]


def test_a_command_whose_packages_are_missing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after `pip install assay` for the client alone."""
    monkeypatch.setitem(hand_over.COMMANDS, "pipeline status", ("no_such_package", "status"))
    assert run(monkeypatch, "pipeline", "status", "runs") == 2
    assert "needs no_such_package, which is not installed: pip install 'assay[pipelines]'" in capsys.readouterr().err


def test_every_command_that_is_handed_over_is_there() -> None:
    for module, function in hand_over.COMMANDS.values():
        assert callable(getattr(importlib.import_module(module), function))
