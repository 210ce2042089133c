"""How the files are derived from the ledger, kept beside it: `assay pipeline summary` derives the same again."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from assay.errors import ConfigError
from assay.files import write_whole
from assay.questions import Template, read_questions
from pipelines.verifier_data.settings import DerivationSettings

FILE = "derivation.json"


@dataclass(frozen=True)
class Derivation:
    """All that decides the files beside pictures and labels.

    Args:
        settings: of the run.
        questions: their texts, by name.
        excluded: how many prompts were left out, since verifiers will be measured on them.
    """

    settings: DerivationSettings
    questions: Mapping[str, Template]
    excluded: int

    @classmethod
    def of(cls, settings: DerivationSettings, excluded: int) -> "Derivation":
        """Of a run.

        Raises:
            ConfigError: a file with a question cannot be read, or lacks a place.
        """
        only = DerivationSettings.model_validate(
            {name: getattr(settings, name) for name in DerivationSettings.model_fields}
        )
        return cls(only, read_questions(only.questions, "questions"), excluded)

    def save(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        values = {
            "settings": self.settings.model_dump(mode="json", exclude={"questions"}),
            "questions": {name: template.text for name, template in self.questions.items()},
            "excluded": self.excluded,
        }
        write_whole(root / FILE, json.dumps(values, indent=1) + "\n")

    @classmethod
    def load(cls, root: Path) -> "Derivation":
        """Raises:
        ConfigError: there is none in the folder.
        """
        try:
            values = json.loads((root / FILE).read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{root / FILE} cannot be read: {error}; run `assay data verifier` again") from error
        questions = {name: Template(text, f"questions.{name}") for name, text in values["questions"].items()}
        return cls(DerivationSettings.model_validate(values["settings"]), questions, values["excluded"])
