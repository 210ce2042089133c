"""The miniature's tokenizers, real `CLIPTokenizer`, `T5Tokenizer` and `Qwen2Tokenizer`: each word becomes one token."""

import json
import re
from collections.abc import Iterable

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer, Qwen2Tokenizer, T5Tokenizer

from miniature import editing
from miniature.prompts import vocabulary

MAX_LENGTH = 16  # "a photo of a purple umbrella right of a purple umbrella" and its two end marks fit
START, END = "<|startoftext|>", "<|endoftext|>"
INSTRUCTION_MAX_LENGTH = 24  # the world's longest instruction has eight words; a planner's may be wordier
PAD, MESSAGE_START, MESSAGE_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
IMAGE = "<image>"
# ChatML, as Qwen2's and LLaVA-OneVision's: images stand where the message has them.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


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


def build_t5_tokenizer() -> T5Tokenizer:
    """A unigram model of the world's words, and of single characters for all other text; no sentinels."""
    characters = "abcdefghijklmnopqrstuvwxyz0123456789,.-"
    pieces = [*(f"\u2581{word}" for word in vocabulary()), *characters, "\u2581"]
    # a piece that spells a whole word is likelier than any way to spell it out
    scores = [(piece, -5.0 if len(piece) > 2 else -8.0) for piece in dict.fromkeys(pieces)]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -100.0)]
    return T5Tokenizer(vocab=[*special, *scores], extra_ids=0, model_max_length=MAX_LENGTH)


def build_instruction_tokenizer() -> Qwen2Tokenizer:
    """Train a byte-level BPE whose every word, with and without the space before it, is one token.

    The chat template holds the message alone between two marks; it takes the arguments of Qwen3's and ignores them.
    """
    words = sorted({*editing.vocabulary(), *vocabulary()})
    tokenizer = _byte_level(words, [MESSAGE_START])
    tokenizer.model_max_length = INSTRUCTION_MAX_LENGTH
    tokenizer.chat_template = (
        f"{{% for message in messages %}}{MESSAGE_START}{{{{ message['content'] }}}}{MESSAGE_END}{{% endfor %}}"
    )
    return tokenizer


def build_chat_tokenizer(texts: Iterable[str]) -> Qwen2Tokenizer:
    """A byte-level BPE for conversations about images, in ChatML.

    Args:
        texts: their words, and the world's, are one token each, with and without the space before; as are `yes` and
            `no`. All other text is spelt in pieces.
    """
    spoken = {word for text in texts for word in re.findall(r"[A-Za-z]+", text)}
    words = sorted({*vocabulary(), *spoken, "system", "user", "assistant", "yes", "no", "Yes", "No"})
    tokenizer = _byte_level(words, [MESSAGE_START, IMAGE])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _byte_level(words: Iterable[str], marks: list[str]) -> Qwen2Tokenizer:
    """Train the merges on the words, each alone and after a space; `marks` become special tokens."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=4000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    raw.train_from_iterator([text for word in words for text in (word, f" {word}")], trainer)
    model = json.loads(raw.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],
        pad_token=PAD,
        unk_token=PAD,
        eos_token=MESSAGE_END,
        additional_special_tokens=marks,
        padding_side="right",
    )
