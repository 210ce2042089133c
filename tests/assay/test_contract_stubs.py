"""The committed stubs are what the contract generates, and the contract keeps its promises."""

import importlib.util
from pathlib import Path

from assay.v1 import reward_service_pb2 as pb

ROOT = Path(__file__).resolve().parents[2]


def test_committed_stubs_are_in_step_with_the_contract(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("proto_generate", ROOT / "proto" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    generate.generate(tmp_path)
    committed = {path.name: path.read_bytes() for path in (ROOT / "assay" / "v1").glob("*.py*") if path.is_file()}
    generated = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert generated.keys() == committed.keys()
    assert generated == committed, "run `python proto/generate.py`"


def test_a_result_without_outcome_is_not_a_zero_score() -> None:
    assert pb.ScoreResult(id="x").WhichOneof("outcome") is None
    assert pb.ScoreResult(score=pb.Score(value=0.0)).WhichOneof("outcome") == "score"


def test_zero_values_of_enums_mean_unspecified() -> None:
    for enum in pb.DESCRIPTOR.enum_types_by_name.values():
        assert enum.values_by_number[0].name.endswith("_UNSPECIFIED"), enum.name
