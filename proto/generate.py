"""Generate the Python stubs of the contract: `python proto/generate.py [--out DIR]`.

Needs grpcio-tools and mypy-protobuf (both in the `dev` extra) and nothing from the network. The files go to
`assay/v1`, where they are committed; a test generates them anew and compares.

Generated code refuses at import any grpcio or protobuf older than the tool that wrote it. It uses nothing so new, so
these floors are lowered to the oldest versions that Assay supports: an upgrade of a
developer's tools must not lock out those who use the client beside other packages.
"""

import argparse
import re
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from google.rpc import status_pb2
from grpc_tools import protoc

PROTO_ROOT = Path(__file__).resolve().parent
CONTRACT = "assay/v1/reward_service.proto"
DEFAULT_OUT = PROTO_ROOT.parent / "assay" / "v1"
OLDEST_GRPCIO = "1.80.0"
OLDEST_PROTOBUF = (6, 33, 0)


def include_arguments() -> list[str]:
    """Where imports are looked up: here, and in the installed googleapis-common-protos (google/rpc/status.proto)."""
    common = Path(status_pb2.__file__).parents[2]
    well_known = files("grpc_tools") / "_proto"
    return [f"-I{PROTO_ROOT}", f"-I{common}", f"-I{well_known}"]


def run_protoc(arguments: list[str]) -> None:
    code = protoc.main(["protoc", *arguments])
    if code != 0:
        raise SystemExit(f"protoc failed with exit code {code}")


def generate(out: Path) -> None:
    """Write the stubs (`*_pb2.py`, `*_pb2.pyi`, `*_pb2_grpc.py`, `*_pb2_grpc.pyi`) to `out`."""
    with tempfile.TemporaryDirectory() as temporary:
        plugins = [f"--{plugin}_out={temporary}" for plugin in ("python", "pyi", "grpc_python", "mypy_grpc")]
        plugins.append(f"--plugin=protoc-gen-mypy_grpc={_beside_python('protoc-gen-mypy_grpc')}")
        run_protoc([*include_arguments(), *plugins, str(PROTO_ROOT / CONTRACT)])
        out.mkdir(parents=True, exist_ok=True)
        for generated in sorted((Path(temporary) / "assay" / "v1").iterdir()):
            text = generated.read_text()
            (out / generated.name).write_text(_with_oldest_versions(text))
    (out / "__init__.py").write_text('"""Generated from proto/assay/v1 by proto/generate.py; do not edit."""\n')


def _beside_python(program: str) -> Path:
    """A program of this Python's environment, which need not be on the PATH."""
    path = Path(sys.executable).parent / program
    if not path.exists():
        raise SystemExit(f"{program} is missing: install the `dev` extra")
    return path


def _with_oldest_versions(text: str) -> str:
    major, minor, patch = OLDEST_PROTOBUF
    text = re.sub(r"(?m)^GRPC_GENERATED_VERSION = '.*'$", f"GRPC_GENERATED_VERSION = '{OLDEST_GRPCIO}'", text)
    text = re.sub(r"(?m)^# Protobuf Python Version: .*$", f"# Protobuf Python Version: {major}.{minor}.{patch}", text)
    return re.sub(
        r"(Domain\.PUBLIC,\n)    \d+,\n    \d+,\n    \d+,\n",
        rf"\g<1>    {major},\n    {minor},\n    {patch},\n",
        text,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    out = parser.parse_args().out
    generate(out)
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
