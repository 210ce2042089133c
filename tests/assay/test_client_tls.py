"""Whatever scores can show a certificate of its own: commands, trainers, batch jobs. Half a pair is told at once."""

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from assay_doubles import MeanScorer, grey, plain
from test_cli import run

from assay.client import RewardClient
from assay.client_tls import ClientTls
from assay.config import load_config
from assay.errors import ConfigError, ServiceUnavailableError
from assay.images import encode
from assay.outcomes import Scored
from assay.rewards import RewardConfig
from assay.testing import serve_in_background

#: Settings of what calls services, what else they need, and where in them the files are named.
SETTINGS = [
    ("pipelines.evaluate.settings", "EvaluateSettings", ["model=x", "output=x"], ""),
    ("pipelines.generate.settings", "GenerateSettings", ["planning_model=x", "score=spatial"], ""),
    ("pipelines.best_of_n.settings", "BestOfNSettings", ["model=x", "outdir=x", "prompts_file=x"], ""),
    ("pipelines.verifier_data.settings", "VerifierDataSettings", ["model=x", "prompts=x"], ""),
    ("pipelines.spatial_tasks.evaluation.settings", "EvalSettings", ["data_json=x", "output_json=x.json"], ""),
    ("trainer.inference", "InferenceSettings", ["lora_path=x"], ""),
    ("trainer.config", "TrainConfig", [], "run."),
]
TRAINING = Path(__file__).resolve().parents[2] / "configs" / "train" / "miniature_counting.yaml"


@pytest.fixture(scope="module")
def target(certificates: Path) -> Iterator[str]:
    """A service that asks for certificates."""
    tls = {name: certificates / f"{file}" for name, file in SERVER_FILES.items()}
    with serve_in_background([MeanScorer("mean", tasks=("OutcomeTask",))], tls=tls) as server:
        yield server.target


SERVER_FILES = {"certificate": "server.pem", "key": "server.key", "client_ca": "ca.pem"}
CLIENT_FILES = {"tls_ca": "ca.pem", "tls_certificate": "client.pem", "tls_key": "client.key"}


@pytest.fixture
def files(certificates: Path) -> dict[str, Path]:
    return {name: certificates / file for name, file in CLIENT_FILES.items()}


def flags(files: dict[str, Path]) -> list[object]:
    return [part for name, path in files.items() for part in (f"--{name.replace('_', '-')}", path)]


@pytest.mark.parametrize("command", ["score", "bench"])
def test_commands_show_a_certificate(
    command: str,
    target: str,
    files: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "grey.png").write_bytes(encode(grey(51), "PNG"))
    asked: list[object] = ["--prompt", "grey", "--target", target, "--json"]
    if command == "score":
        asked = [tmp_path / "grey.png", *asked]
    else:
        asked += ["--size", "16x16", "--concurrency", 1, "--window-s", 1, "--max-windows", 1]
    assert run(monkeypatch, command, *asked, *flags(files)) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed[0]["score"]["value"] == 0.2 if command == "score" else printed["levels"][0]["failures"] == 0
    ca = {"tls_ca": files["tls_ca"]}
    assert run(monkeypatch, command, *asked, *flags(ca), "--deadline-s", 1.0) == 1
    assert target in capsys.readouterr().err
    half = {**ca, "tls_certificate": files["tls_certificate"]}
    assert run(monkeypatch, command, *asked, *flags(half)) == 2
    assert "tls_key is missing; give both or neither" in capsys.readouterr().err


def test_batch_jobs_show_a_certificate(target: str, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    service = import_module("pipelines.reward_service")
    settings = ClientTls(**files)
    assert service.ServiceAddress((target,), 10.0, settings.tls_files).fingerprints(["mean"]) == {"mean": "f1"}
    monkeypatch.setattr(service, "WAIT_FOR_SERVICE_S", 1.0)
    without = ClientTls(tls_ca=files["tls_ca"])
    with pytest.raises(ServiceUnavailableError):
        service.ServiceAddress((target,), 10.0, without.tls_files).fingerprints(["mean"])


def test_a_trainer_shows_a_certificate(target: str, files: dict[str, Path]) -> None:
    from trainer.cli import _reward_set
    from trainer.config import TrainConfig
    from trainer.inference import InferenceSettings, _client

    reward = RewardConfig(name="mean", scorer="mean", targets=(target,))
    for given, wait_s in ((files, 10.0), ({"tls_ca": files["tls_ca"]}, 1.0)):
        overrides = [f"run.{name}={path}" for name, path in given.items()]
        judge = InferenceSettings(lora_path="x", target=target, **given)
        config = load_config(TrainConfig, TRAINING, overrides)
        with _reward_set(config, [reward]) as rewards, _client(judge) as client:
            if "tls_key" not in given:
                with pytest.raises(ServiceUnavailableError):
                    rewards.wait_until_ready(wait_s)
                continue
            rewards.wait_until_ready(wait_s)
            assert rewards.score([grey(51)], prompts=["grey"], tasks=[None]).totals.tolist() == [0.2]
            assert isinstance(client.score([grey(51)], scorer="mean", **plain(1))[0], Scored)


@pytest.mark.parametrize(("module", "name", "needed", "prefix"), SETTINGS, ids=lambda value: str(value)[:40])
def test_half_a_pair_is_an_error_before_anything_is_done(
    module: str, name: str, needed: list[str], prefix: str
) -> None:
    settings = getattr(import_module(module), name)

    def read(*given: str) -> object:
        return load_config(settings, TRAINING if prefix else None, [*needed, *(prefix + one for one in given)])

    read()
    read("tls_ca=a.pem", "tls_certificate=b.pem", "tls_key=b.key")
    for given, message in (
        (("tls_ca=a.pem", "tls_key=b.key"), "tls_certificate is missing; give both or neither"),
        (("tls_ca=a.pem", "tls_certificate=b.pem"), "tls_key is missing; give both or neither"),
        (("tls_certificate=b.pem", "tls_key=b.key"), "tls_certificate needs tls_ca"),
    ):
        with pytest.raises(ConfigError, match=message):
            read(*given)


def test_a_resumed_run_may_name_other_files() -> None:
    from trainer.run_folder import FREE_RUN_FIELDS

    assert set(ClientTls.model_fields) <= FREE_RUN_FIELDS


def test_the_client_itself_refuses_half_a_pair(files: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="tls_certificate is missing"):
        RewardClient(["localhost:1"], tls_ca=files["tls_ca"], tls_key=files["tls_key"])
