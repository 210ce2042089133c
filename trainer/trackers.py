"""What TensorBoard, W&B and Trackio are told of a run: settings, who scores, and which one it is when it goes on."""

from collections.abc import Mapping

from accelerate import Accelerator

from trainer.config import TrainConfig
from trainer.run_folder import RunFolder
from trainer.run_settings import flat


def start_trackers(
    accelerator: Accelerator, config: TrainConfig, folder: RunFolder, epoch: int, fingerprints: Mapping[str, str]
) -> None:
    """Begin to log, or go on where an interrupted run stopped.

    Args:
        accelerator: has `run.trackers`.
        config: the whole configuration.
        folder: the run's.
        epoch: how many are trained.
        fingerprints: of the services that score, by reward; they are those of the whole run.
    """
    identity = folder.identity() if accelerator.is_main_process else ""  # it alone logs
    kinds = {
        "tensorboard": {"purge_step": epoch + 1},  # epochs that are trained again are shown once
        "wandb": {"name": identity, "id": identity, "resume": "allow"},
        "trackio": {"name": identity, "resume": "allow"},
    }
    accelerator.init_trackers("assay", init_kwargs=kinds)
    settings = dict(flat({**config.model_dump(mode="json"), "fingerprints": dict(fingerprints)}))
    for tracker in accelerator.trackers:
        if tracker.name != "tensorboard" or epoch == 0:  # it would show them as those of one more run
            tracker.store_init_configuration(settings)
