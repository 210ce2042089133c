"""`assay train orm`, `assay train parm`, `assay train spatial`, each with `[CONFIG]`: fine-tune a judge.

They differ by what they learn from, and so by their default configuration alone.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from assay.config import load_config
from assay.errors import ConfigError
from assay.serve_command import find_in_repository
from trainer.vlm.config import FineTuningConfig
from trainer.vlm.fine_tuning import fine_tune


def train_orm(config: Path | None, overrides: Sequence[str]) -> int:
    """Fine-tune an outcome reward model.

    Raises:
        AssayError: settings, data or model are wrong, or the folder is another run's.
    """
    return _train("verifier", config or find_in_repository("configs/train/miniature_orm.yaml"), overrides)


def train_parm(config: Path | None, overrides: Sequence[str]) -> int:
    """Fine-tune a potential assessment reward model.

    Raises:
        AssayError: as `train_orm`.
    """
    return _train("verifier", config or find_in_repository("configs/train/miniature_parm.yaml"), overrides)


def train_spatial(config: Path | None, overrides: Sequence[str]) -> int:
    """Fine-tune a model that points. FREEZE_VISION=1 or 0 in the environment says whether the vision tower stays as it
    is, where the command line does not.

    Raises:
        AssayError: as `train_orm`; or FREEZE_VISION is neither.
    """
    freeze = os.environ.get("FREEZE_VISION", "")
    if freeze not in ("", "0", "1"):
        raise ConfigError(f"FREEZE_VISION = {freeze!r}; allowed: 0, 1")
    settings = [f"freeze_vision={'true' if freeze == '1' else 'false'}"] if freeze else []
    own = find_in_repository("configs/train/miniature_spatial.yaml")
    return _train("spatial", config or own, [*settings, *overrides])


def _train(service: str, config: Path, overrides: Sequence[str]) -> int:
    settings = load_config(FineTuningConfig, config, overrides)
    trainer = fine_tune(settings)
    if trainer.accelerator.is_main_process:
        model, adapter = settings.output / "model", settings.output / "adapter"
        served = [f"scorer.backend.model={model if settings.lora is None else settings.model}"]
        served += [] if settings.lora is None else [f"scorer.backend.adapter={adapter}"]
        print(f"serve it: assay serve {service} {' '.join(served)}")
    return 0
