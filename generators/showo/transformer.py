"""The transformer of Show-o: transformers' own Phi, with normalised queries and keys, over text and image tokens.

Nothing of the language model is written anew; what Show-o changes is the vocabulary, and the attention mask, which is
taken as it is given. How sequences are laid out and how images are drawn is not known here.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from torch import Tensor, nn
from transformers import DynamicCache, PhiConfig, PhiForCausalLM

from assay.errors import ConfigError
from generators.showo.hub_layout import HubModel
from generators.showo.vocabulary import Vocabulary

PHI_1_5 = "microsoft/phi-1_5"
GELU = "gelu_pytorch_tanh"  # the function that Phi calls gelu_new, in one operation instead of eight
#: The sizes of `microsoft/phi-1_5`, so that its own configuration need not be downloaded.
PHI_1_5_SIZES: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "layer_norm_eps": 1e-5,
    "partial_rotary_factor": 0.5,
    "hidden_act": GELU,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attention_dropout": 0.0,
}
CLIP_WIDTH = 1024  # of the image features that the variants with a CLIP tower project into the language model


class Showo(HubModel, PeftAdapterMixin):
    """Show-o with the published names and shapes of tensors; the defaults are `showlab/show-o` (256 x 256 pixels).

    Args:
        w_clip_vit: has the projector of CLIP features, which drawing does not use.
        vocab_size: of all ids (see `Vocabulary`).
        llm_vocab_size: of the text tokenizer.
        llm_model_path: the language model it was made from; gives the sizes where `llm_config` is None.
        codebook_size: number of image codes.
        num_vq_tokens: image tokens of one picture.
        mask_token_id: the last id; None derives it.
        llm_config: the language model's sizes, as fields of transformers' `PhiConfig`.

    Raises:
        ConfigError: the numbers contradict each other, or the sizes are not known.
    """

    _no_split_modules = ("PhiDecoderLayer",)
    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        w_clip_vit: bool = False,
        vocab_size: int = 58498,
        llm_vocab_size: int = 50295,
        llm_model_path: str = PHI_1_5,
        codebook_size: int = 8192,
        num_vq_tokens: int = 256,
        mask_token_id: int | None = None,
        llm_config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.vocabulary = Vocabulary.from_config(self.config)
        self.register_to_config(mask_token_id=self.vocabulary.mask)
        sizes = _language_model_sizes(llm_model_path, llm_config)
        self.showo = PhiForCausalLM(PhiConfig(**sizes, vocab_size=vocab_size, qk_layernorm=True))
        if w_clip_vit:
            width = self.showo.config.hidden_size
            self.mm_projector = nn.Sequential(nn.Linear(CLIP_WIDTH, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits over the whole vocabulary, for training.

        Args:
            input_ids: (batch, length).
            attention_mask: (batch, 1, length, length), bool (True attends) or to be added.

        Returns:
            (batch, length, vocab_size) float32. Image tokens are predicted in their own place, not one ahead.
        """
        logits: Tensor = self.showo(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
        return logits.float()

    def image_logits(self, input_ids: Tensor, attention_mask: Tensor, prefix: DynamicCache | None = None) -> Tensor:
        """Logits of the image codes alone, at the image's positions alone, for sampling.

        Args:
            input_ids: (batch, length), ending in soi, `num_vq_tokens` image tokens, eoi.
            attention_mask: (batch, 1, length, prefix's length + length), bool or to be added.
            prefix: keys and values of what stands before; those of `input_ids` are appended to it.

        Returns:
            (batch, num_vq_tokens, codebook_size) float32; the mask's own class is not among them.
        """
        hidden = self.showo.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=prefix,
            use_cache=prefix is not None,
        ).last_hidden_state[:, -(self.config.num_vq_tokens + 1) : -1]
        head, codes = self.showo.lm_head, slice(self.vocabulary.image_offset, self.vocabulary.mask)
        if type(head) is nn.Linear:
            logits = F.linear(hidden, head.weight[codes], head.bias[codes])
        else:  # with a LoRA on it, the weight is not all there is to the head
            logits = head(hidden)[..., codes]
        return logits.float()

    def enable_gradient_checkpointing(self) -> None:
        """Compute activations again in the backward pass instead of keeping them; takes effect in training mode."""
        self.showo.activation_checkpointing_enable({"use_reentrant": False})


@torch.no_grad()
def read_prefix(showo: Showo, input_ids: Tensor, attention_mask: Tensor) -> DynamicCache:
    """Keys and values of sequences that more will follow: `input_ids` (batch, length), mask as in `Showo.forward`."""
    cache = DynamicCache()
    showo.showo.model(input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True)
    return cache


def _language_model_sizes(path: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    if given is None:
        if path.rstrip("/").rsplit("/", 1)[-1] != PHI_1_5.rsplit("/", 1)[-1]:
            raise ConfigError(f"llm_model_path is {path!r}; allowed: {PHI_1_5!r}, or any with its sizes in llm_config")
        return PHI_1_5_SIZES
    allowed = {field.name for field in fields(PhiConfig)} | {"partial_rotary_factor"}
    allowed -= {"vocab_size", "qk_layernorm"}  # Show-o's own
    unknown = sorted(given.keys() - allowed)
    if unknown:
        raise ConfigError(f"llm_config.{unknown[0]} is not known; allowed: {', '.join(sorted(allowed))}")
    return {"hidden_act": GELU, **given}
