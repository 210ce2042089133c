"""The tokenizer of the miniature Show-o, a real `CodeGenTokenizer` as Phi's: each of the world's words is one token."""

import json

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CodeGenTokenizer

from miniature.prompts import vocabulary

MARK = "<|endoftext|>"  # begin and end of a text, as in Phi
SHOWO_MAX_LENGTH = 16  # "a photo of a purple umbrella right of a purple umbrella" and its two marks fit


def build_phi_tokenizer() -> CodeGenTokenizer:
    """Train a byte-level BPE in which the world's words, with and without the space before, are single tokens."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=2000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    raw.train_from_iterator([text for word in vocabulary() for text in (word, f" {word}")], trainer)
    model = json.loads(raw.to_str())["model"]
    vocab = {**model["vocab"], MARK: len(model["vocab"])}
    return CodeGenTokenizer(vocab=vocab, merges=[tuple(pair) for pair in model["merges"]])
