"""How a command hands over to the package that does it. It is imported only then: `assay` depends on none of them."""

from importlib import import_module

from assay.errors import ConfigError

#: command -> (module, function) that does it.
COMMANDS = {
    "train": ("trainer.cli", "train"),
    "train orm": ("trainer.vlm.command", "train_orm"),
    "train parm": ("trainer.vlm.command", "train_parm"),
    "train spatial": ("trainer.vlm.command", "train_spatial"),
    "spatial check": ("trainer.vlm.one_batch", "check_one_batch"),
    "train dpo": ("trainer.dpo_command", "train_dpo"),
    "infer": ("trainer.inference", "infer"),
    "data counting": ("trainer.counting_data", "counting"),
    "data verifier": ("pipelines.verifier_data.command", "verifier_data"),
    "plan": ("pipelines.planning.command", "plan"),
    "generate": ("pipelines.generate.command", "generate"),
    "best-of-n": ("pipelines.best_of_n.command", "best_of_n"),
    "evaluate geneval": ("pipelines.evaluate.command", "evaluate_geneval"),
    "spatial build": ("pipelines.spatial_tasks.building.command", "spatial_build"),
    "spatial eval": ("pipelines.spatial_tasks.evaluation.command", "spatial_eval"),
    "spatial zero-shot": ("pipelines.spatial_tasks.zero_shot", "spatial_zero_shot"),
    "pipeline status": ("pipelines.status_command", "status"),
    "pipeline summary": ("pipelines.status_command", "summary"),
}
#: command -> the extra that has what it needs, where that is another than `pipelines`.
EXTRAS = dict.fromkeys(("train orm", "train parm", "train spatial", "spatial check"), "vlm")


def hand_over(command: str, *arguments: object) -> int:
    """Do a command, and return its exit code.

    Raises:
        ConfigError: what it needs is not installed.
    """
    module_name, function_name = COMMANDS[command]
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"`assay {command}` needs {error.name}, which is not installed: pip install "
            f"'assay[{EXTRAS.get(command, 'pipelines')}]'"
        ) from error
    return int(getattr(module, function_name)(*arguments))
