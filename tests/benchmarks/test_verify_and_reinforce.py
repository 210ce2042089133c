"""benchmarks/verify_and_reinforce.py takes hours: that its commands are ones that Assay knows, and that each finds what
those before it leave, is seen here. Every command reads its settings, and stops there."""

import json
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from assay import config
from assay.cli import app
from assay.hand_over import COMMANDS
from assay.serve_command import SERVICES, ServiceConfig
from assay.vision_language.config import TransformersBlock
from benchmarks.verify_and_reinforce import ROWS, Experiment, report
from services.verifier.config import read_config as read_verifier

ROOT = Path(__file__).parents[2]
USED = ("data verifier", "train orm", "train parm", "train dpo", "best-of-n", "evaluate geneval")


class ReadError(Exception):
    """Not an error: a command has read its settings, and is stopped."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings


class Rehearsal(Experiment):
    """Goes through all commands, and keeps the settings that each reads."""

    def __init__(self, args: Namespace) -> None:
        super().__init__(args)
        self.read: list[tuple[str, Any]] = []
        self.verifiers: dict[str, Any] = {}

    def _command(self, log: str, words: Sequence[str]) -> None:
        result = CliRunner().invoke(app, list(words))
        assert isinstance(result.exception, ReadError), (words, result.exception, result.output)
        name = " ".join(words[: 1 if words[0] == "best-of-n" else 2])
        self.read.append((name, result.exception.settings))

    @contextmanager
    def _serving(self, service: str, name: str | None = None, settings: Sequence[str] = ()) -> Iterator[str]:
        block = config.load_config(ServiceConfig, ROOT / SERVICES[service][1], settings)
        if service == "verifier":
            self.verifiers[str(name)] = read_verifier(block.scorer)
        yield f"{name or service}:1"

    def of(self, command: str) -> list[Any]:
        return [settings for name, settings in self.read if name == command]


def rehearse(output: Path, verifier: str | None) -> Rehearsal:
    def stop(*arguments: Any) -> Any:
        raise ReadError(config.load_config(*arguments))

    for name in ("orm", "parm", "dpo", "dpo_iter", "dpo_iter_parm_guide"):
        (output / name).mkdir()  # as the commands would
    for name in ("data", "data_iter"):
        (output / name).mkdir()
        row = {"prompt": name, "chosen": "a.png", "rejected": "b.png"}
        (output / name / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    numbers = {
        "candidates": 3,
        "images": 2,
        "unchosen": 10,
        "potential": 0.05,
        "data_candidates": 4,
        "threads": 1,
        "dtype": "bfloat16",
    }
    rehearsal = Rehearsal(Namespace(output=output, model="a/showo", zero_shot="a/judge", verifier=verifier, **numbers))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for command in USED:
            patch.setattr(import_module(COMMANDS[command][0]), "load_config", stop)
        rehearsal.run()
    return rehearsal


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    return rehearse(tmp_path_factory.mktemp("benchmark"), None)


def test_every_command_of_the_benchmark_is_one_that_assay_knows(rehearsed: Rehearsal) -> None:
    names = [name for name, _ in rehearsed.read]
    assert {name: names.count(name) for name in USED} == {
        "data verifier": 2,
        "train orm": 1,
        "train parm": 1,
        "train dpo": 3,
        "best-of-n": len(ROWS),
        "evaluate geneval": len(ROWS),
    }
    assert rehearsed.verifiers.keys() == {"orm_zs", "orm_ft", "parm"}


def test_each_command_finds_what_those_before_it_leave(rehearsed: Rehearsal) -> None:
    data, data_iter = rehearsed.of("data verifier")
    tuned = {name: rehearsed.of(f"train {name}")[0] for name in ("orm", "parm")}
    for name, settings in tuned.items():
        assert settings.data[0].path == data.output / f"{name}.json"
        assert settings.held_out[0].path == data.output / f"{name}_held_out.json"
        assert settings.model == "a/judge"
    served = {"orm_zs": "a/judge", "orm_ft": f"{tuned['orm'].output}/model", "parm": f"{tuned['parm'].output}/model"}
    for name, verifier in rehearsed.verifiers.items():
        assert isinstance(verifier.backend, TransformersBlock)
        assert verifier.backend.model == served[name]
    first, second, guided = rehearsed.of("train dpo")
    assert first.algorithm.data == data.output / "pairs.jsonl"
    assert second.algorithm.data == guided.algorithm.data
    both = [json.loads(line) for line in second.algorithm.data.read_text().splitlines()]
    found = [(row["prompt"], second.algorithm.data.parent / row["chosen"]) for row in both]
    assert found == [("data", data.output / "a.png"), ("data_iter", data_iter.output / "a.png")]
    assert [Path(row["rejected"]).name for row in both] == ["b.png", "b.png"]
    assert data_iter.lora == str(first.run.output)
    assert guided.rewards[0].targets == ("parm:1",)
    for row, drawn, judged in zip(ROWS, rehearsed.of("best-of-n"), rehearsed.of("evaluate geneval"), strict=True):
        assert judged.images == drawn.outdir / drawn.variant
        if row.dpo_model is not None:
            trained = dict(zip(("dpo", "dpo_iter", "dpo_iter_parm_guide"), (first, second, guided), strict=True))
            assert drawn.dpo_models[row.dpo_model] == trained[row.dpo_model].run.output / "lora"
        if row.reward_model not in ("none", "geneval"):
            assert drawn.verifier.targets == (f"{row.reward_model}:1",)
        assert drawn.eval_num == (10 if row.reward_model == "none" else 2)


def test_a_verifier_that_is_given_is_not_trained(tmp_path: Path) -> None:
    rehearsal = rehearse(tmp_path, "a/verifier")
    assert [name for name, _ in rehearsal.read if name in ("train orm", "train parm")] == []
    backends = {name: verifier.backend for name, verifier in rehearsal.verifiers.items()}
    models = {name: backend.model for name, backend in backends.items() if isinstance(backend, TransformersBlock)}
    assert models == {"orm_zs": "a/judge", "orm_ft": "a/verifier", "parm": "a/verifier"}


def test_the_report_says_how_far_a_verifier_agrees_with_the_labels_of_its_candidates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four candidates of two prompts: three of four answers are right, and three of the four pairs of a right and a
    wrong picture are in order."""
    for drawn, outcomes in {
        "by_geneval/showo_orm_ft": [[0.0, 1.0], [1.0, 0.0]],
        "by_verifiers/showo_orm_ft": [[0.5, 2.0], [0.1, -1.0]],
    }.items():
        for index, said in enumerate(outcomes):
            folder = tmp_path / "drawn" / drawn / f"{index:05d}"
            folder.mkdir(parents=True)
            images = [{"candidates": [{"outcome": one}]} for one in said]
            (folder / "selection.json").write_text(json.dumps({"images": images}))
    report(tmp_path)
    assert "orm_ft of the 4 candidates: agrees 0.750, area under the curve 0.750" in capsys.readouterr().out
    assert "orm_zs" not in (tmp_path / "table.md").read_text()
