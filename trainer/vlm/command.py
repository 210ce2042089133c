"""`assay train orm [CONFIG]` and `assay train parm [CONFIG]`: fine-tune a verifier.

They differ by what they learn from, and so by their default configuration alone.
"""

from collections.abc import Sequence
from pathlib import Path

from assay.config import load_config
from assay.serve_command import find_in_repository
from trainer.vlm.config import FineTuningConfig
from trainer.vlm.fine_tuning import fine_tune


def train_orm(config: Path | None, overrides: Sequence[str]) -> int:
    """Fine-tune an outcome reward model.

    Raises:
        AssayError: settings, data or model are wrong, or the folder is another run's.
    """
    return _train(config or find_in_repository("configs/train/miniature_orm.yaml"), overrides)


def train_parm(config: Path | None, overrides: Sequence[str]) -> int:
    """Fine-tune a potential assessment reward model.

    Raises:
        AssayError: as `train_orm`.
    """
    return _train(config or find_in_repository("configs/train/miniature_parm.yaml"), overrides)


def _train(config: Path, overrides: Sequence[str]) -> int:
    settings = load_config(FineTuningConfig, config, overrides)
    trainer = fine_tune(settings)
    if trainer.accelerator.is_main_process:
        model, adapter = settings.output / "model", settings.output / "adapter"
        served = [f"scorer.backend.model={model if settings.lora is None else settings.model}"]
        served += [] if settings.lora is None else [f"scorer.backend.adapter={adapter}"]
        print(f"serve it: assay serve verifier {' '.join(served)}")
    return 0
