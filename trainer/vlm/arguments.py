"""The settings of a run in TRL's words."""

import torch
from trl import SFTConfig

from trainer.vlm.config import FineTuningConfig


def training_arguments(config: FineTuningConfig) -> SFTConfig:
    """To be made before the model is loaded: DeepSpeed (ZeRO-3) takes note of it, and shards while loading."""
    on_gpu = torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(config.output),
        max_steps=-1 if config.max_steps is None else config.max_steps,
        num_train_epochs=1.0 if config.epochs is None else config.epochs,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup_share,  # below 1, it is a share
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=config.dtype == "bfloat16",
        tf32=True if on_gpu and config.dtype == "bfloat16" else None,
        use_cpu=not on_gpu,
        gradient_checkpointing=config.gradient_checkpointing,
        seed=config.seed,
        data_seed=config.seed,
        save_strategy="steps",
        save_steps=config.save_every_steps,
        save_total_limit=2,
        eval_strategy="no",  # `trainer.vlm.watching` evaluates
        logging_steps=config.log_every_steps,
        report_to=list(config.trackers) or "none",
        dataloader_num_workers=config.loader_workers,
        remove_unused_columns=False,
        max_length=None,  # cut text would lose images, or the answer
        dataset_kwargs={"skip_prepare_dataset": True},
    )
