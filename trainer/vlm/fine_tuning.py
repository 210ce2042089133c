"""One run: data, model, TRL's trainer, evaluations, result."""

from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from trl import SFTConfig

from assay.errors import AssayError, ConfigError
from trainer.vlm.answer_trainer import AnswerTrainer
from trainer.vlm.arguments import training_arguments
from trainer.vlm.collator import AnswerCollator
from trainer.vlm.config import FineTuningConfig
from trainer.vlm.exact_answers import ExactAnswers
from trainer.vlm.loading import load_model, lora_config, vision_tower
from trainer.vlm.mixture import read_mixture
from trainer.vlm.rendering import Renderer
from trainer.vlm.run_folder import FineTuningFolder
from trainer.vlm.saving import save_result
from trainer.vlm.watching import Judge, Watcher
from trainer.vlm.yes_no import YesNoQuestions


def fine_tune(config: FineTuningConfig) -> AnswerTrainer:
    """Train to the end, from the newest checkpoint if there is one, and save the result.

    Raises:
        AssayError: settings, data or model are wrong, or the folder is another run's.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    arguments = training_arguments(config)
    folder = FineTuningFolder(config.output)
    checkpoint = _take_up(folder, config, arguments)
    conversations = read_mixture(config.data, config.seed)
    held_out = read_mixture(config.held_out, config.seed)
    model, processor = load_model(config)
    renderer = Renderer(processor)
    judge: Judge
    if config.held_out_answers == "yes_no":
        judge = YesNoQuestions(held_out, processor, renderer, config.evaluation_batch_size)
    else:
        judge = ExactAnswers(held_out, renderer, config.evaluation_batch_size)
    watcher = Watcher(folder, judge, config.evaluate_every_steps)
    rate = config.vision_learning_rate
    trainer = AnswerTrainer(
        model,
        arguments,
        AnswerCollator(conversations, renderer),
        _rows(len(conversations)),
        processing_class=processor,
        callbacks=[watcher],
        peft_config=lora_config(config, model),
        vision=None if rate is None else (vision_tower(model), rate),
    )
    watcher.accelerator = trainer.accelerator
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    save_result(trainer, config.output / ("model" if config.lora is None else "adapter"), config.save_dtype)
    return trainer


def _take_up(folder: FineTuningFolder, config: FineTuningConfig, arguments: SFTConfig) -> Path | None:
    """Claim the folder, drop what will be done again, and return the checkpoint to go on from."""
    state = arguments.distributed_state
    checkpoint, error = None, None
    if state.is_main_process:
        try:
            missing = [source.path for source in (*config.data, *config.held_out) if not source.path.is_file()]
            if missing:
                raise ConfigError(f"data: {missing[0]}: there is no such file")
            checkpoint = folder.newest_checkpoint()
            folder.claim(config, state.num_processes)
            folder.forget_after(checkpoint)
        except (AssayError, OSError) as found:
            error = str(found)
    if state.num_processes > 1:  # an error is all processes', or the others would wait for the one that stopped
        checkpoint, error = broadcast_object_list([checkpoint, error])
    if error is not None:
        raise ConfigError(error)
    return checkpoint


def _rows(number: int) -> Dataset:
    """A row a conversation: the collator finds it by its index. The column `images` tells TRL that there are some."""
    return Dataset.from_dict({"index": list(range(number)), "images": [[] for _ in range(number)]})
