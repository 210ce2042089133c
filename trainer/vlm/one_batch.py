"""What the first batch of a fine-tuning run looks like, without loading the model: a minute before hours on a GPU."""

from collections.abc import Sequence
from pathlib import Path

from assay.config import load_config
from assay.errors import ConfigError
from assay.questions import IMAGE
from assay.serve_command import find_in_repository
from assay.serving.model_files import locate_model
from assay.vision_language.chat_processor import load_processor
from trainer.vlm.collator import IGNORED, AnswerCollator
from trainer.vlm.config import FineTuningConfig
from trainer.vlm.mixture import read_mixture
from trainer.vlm.rendering import Renderer


def check_one_batch(config: Path | None, overrides: Sequence[str]) -> int:
    """`assay spatial check`: read all data, make one batch, and say what is in it.

    Raises:
        ConfigError: settings or data are wrong, or the processor does not give each image its place in the text.
        ModelLoadError: the model cannot be found, or it has no usable processor.
    """
    settings = load_config(
        FineTuningConfig, config or find_in_repository("configs/train/miniature_spatial.yaml"), overrides
    )
    conversations = read_mixture(settings.data, settings.seed)
    processor = load_processor(locate_model(settings.model, settings.revision))
    number = min(settings.batch_size, len(conversations))
    batch = AnswerCollator(conversations, Renderer(processor))([{"index": index} for index in range(number)])
    shown = [len(conversation.images) for conversation in conversations[:number]]
    places = (batch["input_ids"] == processor.image_token_id).sum(1).tolist()
    print(f"{len(conversations)} conversations; a batch of {number}")
    for name, value in batch.items():
        print(f"  {name}: {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}")
    for row, conversation in enumerate(conversations[:number]):
        if not places[row] or places[row] % shown[row]:
            raise ConfigError(
                f"conversation {conversation.id!r}: {shown[row]} images have {places[row]} places in the text; the "
                f"processor does not know {IMAGE}, or images of one conversation have different sizes"
            )
        learnt = batch["labels"][row]
        answer = processor.tokenizer.decode(learnt[learnt != IGNORED])
        print(f"  {conversation.id}: {shown[row]} images, {places[row]} places for them, learns {answer!r}")
    print("OK: one-batch check passed")
    return 0
