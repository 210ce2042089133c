"""Check the contract with buf: `python proto/check.py [--against GIT_REF]`.

Runs `buf lint` (STANDARD), and with `--against` also `buf breaking` (FILE) against the contract at that git revision.
buf comes from npm; protoc of grpcio-tools builds the images it looks at, so that imports resolve without a registry.
A revision that has no contract yet has nothing to break, and passes.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from generate import CONTRACT, PROTO_ROOT, include_arguments, run_protoc

BUF = ["npx", "--yes", "@bufbuild/buf@1.75"]
REPOSITORY = PROTO_ROOT.parent


def build_image(root: Path, out: Path) -> Path:
    """Compile the contract under `root`, imports included, to a descriptor set that buf reads."""
    includes = [f"-I{root}", *include_arguments()[1:]]
    output = ["--include_imports", "--include_source_info", f"--descriptor_set_out={out}"]
    run_protoc([*includes, *output, str(root / CONTRACT)])
    return out


def checkout_contract(revision: str, root: Path) -> bool:
    """Write the contract at a git revision to `root`; False if that revision has none."""
    shown = subprocess.run(["git", "show", f"{revision}:proto/{CONTRACT}"], cwd=REPOSITORY, capture_output=True)
    if shown.returncode != 0:
        known = subprocess.run(
            ["git", "rev-parse", "--verify", "--quiet", revision], cwd=REPOSITORY, capture_output=True
        )
        if known.returncode != 0:
            raise SystemExit(f"no such git revision: {revision}")
        return False
    (root / CONTRACT).parent.mkdir(parents=True)
    (root / CONTRACT).write_bytes(shown.stdout)
    return True


def buf(*arguments: str) -> int:
    print("buf", arguments[0], flush=True)
    return subprocess.run([*BUF, *arguments], cwd=REPOSITORY).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", metavar="GIT_REF")
    against = parser.parse_args().against
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        image = build_image(PROTO_ROOT, folder / "new.binpb")
        code = buf("lint", str(image), "--config", "buf.yaml")
        if against and checkout_contract(against, folder / "old"):
            old = build_image(folder / "old", folder / "old.binpb")
            code = code or buf("breaking", str(image), "--against", str(old), "--config", "buf.yaml")
    return code


if __name__ == "__main__":
    sys.exit(main())
