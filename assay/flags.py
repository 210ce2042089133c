"""Command-line flags as settings: those that were given, in the form that `assay.config.load_config` takes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def given(flags: Mapping[str, Any]) -> list[str]:
    """`field=value` for each flag that is not None. JSON is YAML, so that a name such as "1e3" stays a name."""
    return [
        f"{name}={json.dumps(str(value) if isinstance(value, Path) else value)}"
        for name, value in flags.items()
        if value is not None
    ]
