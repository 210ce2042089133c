"""What the first batch of a fine-tuning run looks like, without loading the model: a minute before hours on a GPU."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assay.config import load_config
from assay.errors import ConfigError
from assay.questions import IMAGE
from assay.serve_command import find_in_repository
from assay.serving.model_files import locate_model
from assay.vision_language.chat_processor import load_processor
from trainer.vlm.collator import IGNORED, AnswerCollator
from trainer.vlm.config import FineTuningConfig
from trainer.vlm.conversations import Conversation
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
    renderer = Renderer(processor)
    rows = choose_rows(conversations, settings.batch_size)
    places = [places_by_image(conversations[row], renderer, processor) for row in rows]
    batch = AnswerCollator(conversations, renderer)([{"index": row} for row in rows])
    print(f"{len(conversations)} conversations; a batch of {len(rows)}")
    for name, value in batch.items():
        print(f"  {name}: {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}")
    for row, own, learnt in zip(rows, places, batch["labels"], strict=True):
        answer = processor.tokenizer.decode(learnt[learnt != IGNORED])
        print(f"  {conversations[row].id}: {len(own)} images, {sum(own)} places for them, learns {answer!r}")
    print("OK: one-batch check passed")
    return 0


def choose_rows(conversations: Sequence[Conversation], batch_size: int) -> list[int]:
    """The first conversation of each number of images, and the first of the others until the batch is full."""
    first: dict[int, int] = {}
    for row, conversation in enumerate(conversations):
        first.setdefault(len(conversation.images), row)
    others = [row for row in range(min(batch_size, len(conversations))) if row not in first.values()]
    return sorted([*first.values(), *others[: max(0, batch_size - len(first))]])


def places_by_image(conversation: Conversation, renderer: Renderer, processor: Any) -> list[int]:
    """How many tokens each image of a conversation has in the text; images may differ in size, and so in places.

    Raises:
        ConfigError: an image has none, tokens stand for an image where none does, or the processor refuses it.
    """
    text, _ = renderer.with_answers(conversation)
    asked = {"return_offsets_mapping": True, "return_text_replacement_offsets": True}
    try:
        inputs = renderer.inputs([text], [conversation.images], side="right", **asked)
    except ValueError as error:
        raise ConfigError(f"conversation {conversation.id!r}: the processor refuses it: {error}") from error
    is_place = inputs["input_ids"][0] == processor.image_token_id
    starts = inputs["offset_mapping"][0, :, 0][is_place].tolist()
    spans = [one["new_span"] for one in inputs["text_replacement_offsets"][0]]
    places = [sum(start <= place < end for place in starts) for start, end in spans]
    if len(places) != len(conversation.images) or not all(places) or sum(places) != len(starts):
        raise ConfigError(
            f"conversation {conversation.id!r}: {len(conversation.images)} images; places in the text by image: "
            f"{', '.join(map(str, places)) or 'none'}; in all: {len(starts)}; allowed: some for each image, and no "
            f"others: does the processor know {IMAGE}?"
        )
    return places
