"""A masked model that one can compute with by hand: one trained logit for each of a few ids, whatever is asked."""

import torch
import torch.nn.functional as F
from torch import Tensor

from generators.embeddings import PromptEmbeddings

#: Ids of the toy: two words, soi, eoi, then the image codes.
WORDS, SOI, EOI, CODES = 2, 2, 3, 4
NUM_CODES = 4


class ToyMaskedModel:
    """Every token has the same distribution; with an empty prompt (id 0) its logits are halved.

    `seen` keeps what each call was asked: prompts, codes and masks.
    """

    def __init__(self, logits: list[float]) -> None:
        assert len(logits) == CODES + NUM_CODES
        self.logits = torch.nn.Parameter(torch.tensor(logits))
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def log_probs(
        self, prompts: PromptEmbeddings, codes: Tensor, masked: Tensor, *, whole_vocabulary: bool = False
    ) -> Tensor:
        self.seen.append((prompts.tokens, codes, masked))
        logits = self.logits * torch.where(prompts.tokens[:, :1] == 0, 0.5, 1.0)  # (batch, ids)
        if not whole_vocabulary:
            return F.log_softmax(logits[:, CODES:], 1).gather(1, codes).masked_fill(~masked, 0)
        known = torch.full((len(codes), 1), SOI), torch.full((len(codes), 1), EOI)
        labels = torch.cat([known[0], codes + CODES, known[1]], 1)
        found = F.log_softmax(logits, 1).gather(1, labels)
        return found.masked_fill(~F.pad(masked, (1, 1), value=True), 0)
