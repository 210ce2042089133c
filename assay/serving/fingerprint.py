"""Fingerprints of scorers: one digest over all that decides a score."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

# Loads the models of the services, and so decides scores as their own code does.
_SHARED_CODE = Path(__file__).with_name("model_files.py")


def digest_parts(parts: Mapping[str, str]) -> str:
    """SHA-256 over named parts (digests of files, settings as text), in hexadecimal; their order does not matter."""
    return hashlib.sha256(json.dumps(dict(parts), sort_keys=True).encode()).hexdigest()


def digest_code(package: Path) -> str:
    """SHA-256 over the Python source of a service's folder and of what loads its models: whatever in it changes,
    scores may."""
    digest = hashlib.sha256(_SHARED_CODE.read_bytes())
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()
