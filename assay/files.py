"""Files that are there as a whole or not at all, and what identifies their content."""

import hashlib
import uuid
from collections.abc import Sequence
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that it is either there as a whole or not there; several writers do not mix."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.rename(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def digest_file(path: Path | str) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_folder(folder: Path, patterns: Sequence[str]) -> str:
    """SHA-256 over the relative names and contents of the files that match one of the patterns, in hexadecimal."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        digest.update(f"{path.relative_to(folder).as_posix()}:{digest_file(path)}\n".encode())
    return digest.hexdigest()
