"""`model_index.json`, which tells what a folder in the hub's layout holds."""

import json
from pathlib import Path
from typing import Any


def read_model_index(folder: Path | str) -> dict[str, Any]:
    """The index of a folder; empty where there is none that can be read."""
    try:
        index: dict[str, Any] = json.loads((Path(folder) / "model_index.json").read_text())
    except (OSError, ValueError):
        return {}
    return index
