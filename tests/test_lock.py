"""What is installed is what the lock names: nothing the project needs comes in at a version of its own choice.

The lock pins versions. It holds no hashes of files, for torch's wheel differs from machine to machine (with and without
CUDA), and pip takes either all hashes or none.
"""

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def locked() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pairs = [re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", line) for line in lines]
    assert all(pairs), [line for line, pair in zip(lines, pairs, strict=True) if not pair]
    return {canonicalize_name(pair[1]): pair[2] for pair in pairs if pair}


def needed(root: str = "assay", extra: str = "dev") -> dict[str, str]:
    """Name -> installed version of all that the project needs with an extra, through and through."""
    found: dict[str, str] = {}
    waiting, seen = [(root, frozenset({extra}))], set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue  # of an extra that is not installed; `pip check` sees to the rest
        found[canonicalize_name(name)] = installed.version
        for line in installed.requires or ():
            requirement = Requirement(line)
            asked = [{"extra": one} for one in extras] or [{"extra": ""}]
            if requirement.marker is None or any(requirement.marker.evaluate(one) for one in asked):
                waiting.append((requirement.name, frozenset(requirement.extras)))
    return found


def test_everything_that_is_installed_is_locked_at_that_very_version() -> None:
    lock, found = locked(), needed()
    assert len(found) > 50
    found.pop("assay")
    wrong = {
        name: (version, lock.get(name, "not locked"))
        for name, version in found.items()
        # `2.13.0+cpu` is a build of `2.13.0`.
        if Version(lock.get(name, "0")).public != Version(version).public
    }
    # The Makefile pins torch; setuptools and the packages of CUDA come with it, before the lock is read.
    with_torch = ("torch", "setuptools", "nvidia", "cuda", "triton")
    assert {name: versions for name, versions in wrong.items() if not name.startswith(with_torch)} == {}
    assert "torch==2.13.0" in (ROOT / "Makefile").read_text()


def test_the_lock_is_in_order() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines == sorted(lines, key=str.lower)
    assert len({line.split("==")[0].lower() for line in lines}) == len(lines)
