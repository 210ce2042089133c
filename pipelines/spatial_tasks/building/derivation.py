"""What decides the questions, kept beside them: `assay pipeline summary` derives the same again."""

import json
from pathlib import Path

from assay.errors import ConfigError
from assay.files import write_whole
from pipelines.spatial_tasks.building.settings import BuildSettings, TaskSettings

FILE = "derivation.json"


def save_derivation(settings: BuildSettings) -> None:
    values = settings.model_dump(mode="json", include=set(TaskSettings.model_fields))
    settings.out_dir.mkdir(parents=True, exist_ok=True)
    write_whole(settings.out_dir / FILE, json.dumps(values, indent=1) + "\n")


def load_derivation(root: Path) -> TaskSettings:
    """Of the last build into that folder.

    Raises:
        ConfigError: there is none.
    """
    try:
        return TaskSettings.model_validate(json.loads((root / FILE).read_text()))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{root / FILE} cannot be read: {error}; run `assay spatial build` again") from error
