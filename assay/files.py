"""Files that are there as a whole or not at all, and what identifies their content."""

import hashlib
import uuid
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is either there as a whole or not there; several writers do not mix."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.write_text(text)
        partial.rename(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def digest_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
