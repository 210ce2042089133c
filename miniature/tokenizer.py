"""The miniature's tokenizer: a real `CLIPTokenizer` whose merges turn every word of the world into one token."""

import json

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from miniature.prompts import vocabulary

MAX_LENGTH = 16  # "a photo of a purple umbrella right of a purple umbrella" and its two end marks fit
START, END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer() -> CLIPTokenizer:
    """Train the merges on the world's vocabulary. The same words always give the same tokenizer."""
    raw = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=2000, end_of_word_suffix="</w>", show_progress=False)
    raw.train_from_iterator([" ".join([*vocabulary(), "-", ",", "."])], trainer)
    model = json.loads(raw.to_str())["model"]
    vocab = model["vocab"]
    for symbol in [*"abcdefghijklmnopqrstuvwxyz0123456789", START, END]:
        for piece in (symbol,) if symbol in (START, END) else (symbol, f"{symbol}</w>"):
            vocab.setdefault(piece, len(vocab))
    merges = [tuple(pair) for pair in model["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_LENGTH, pad_token=END, unk_token=END)
