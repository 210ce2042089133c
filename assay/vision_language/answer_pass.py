"""One forward pass up to where answers begin, and yes and no as its logits have them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from assay.answer_tokens import AnswerTokens
from assay.vision_language.answers import Answer, answer_from_logits


def forward_to_answer(model: Any, inputs: Mapping[str, Tensor], **options: Any) -> Any:
    """What a model's `forward` returns; of the logits, (batch, 1, vocabulary), only those at the last place.

    Args:
        model: that writes.
        inputs: padded on the left.
        options: of `forward`.
    """
    input_ids = inputs["input_ids"]
    # What `generate` calls: positions count from the first token that is not padding, and where a class has
    # positions in space (Qwen's), it makes them here.
    positions = model._prepare_position_ids_for_generation(input_ids, {**inputs, **options})
    return model(**inputs, **options, position_ids=positions[..., -input_ids.shape[1] :], logits_to_keep=1)


def read_answers(logits: Tensor, tokens: AnswerTokens, tokenizer: Any) -> list[Answer]:
    """Answers of a batch.

    Args:
        logits: (batch, 1, vocabulary), at the last place.
        tokens: that spell yes and no.
        tokenizer: the model's.
    """
    logits = logits[:, -1].float()
    yes, no = logits[:, list(tokens.yes)].tolist(), logits[:, list(tokens.no)].tolist()
    normalizers, top = torch.logsumexp(logits, dim=-1).tolist(), logits.argmax(dim=-1).tolist()
    spelling = {*tokens.yes, *tokens.no}
    return [
        answer_from_logits(one_yes, one_no, normalizer, tokenizer.decode([token]).strip(), token in spelling)
        for one_yes, one_no, normalizer, token in zip(yes, no, normalizers, top, strict=True)
    ]
