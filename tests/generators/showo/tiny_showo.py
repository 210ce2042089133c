"""A small random Show-o: the published classes with other numbers. The same each time."""

import torch

from generators.showo.magvit import MAGVITv2
from generators.showo.pipeline import ShowoPipeline
from generators.showo.transformer import Showo
from miniature.phi_tokenizer import build_phi_tokenizer

CODES, TOKENS = 64, 16  # pictures of 16 x 16 pixels
TOKENIZER = build_phi_tokenizer()
LANGUAGE_MODEL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


def build_transformer(**others: object) -> Showo:
    torch.manual_seed(0)
    text = len(TOKENIZER)
    showo = Showo(
        vocab_size=text + 10 + CODES + 1,
        llm_vocab_size=text,
        codebook_size=CODES,
        num_vq_tokens=TOKENS,
        llm_config=LANGUAGE_MODEL,
        **others,
    )
    with torch.no_grad():  # as they are initialised, the weights hardly let tokens look at each other
        for name, parameter in showo.named_parameters():
            if parameter.dim() == 2:
                parameter.mul_(8 if "lm_head" in name else 4)
            elif "layernorm" in name or name.endswith("bias"):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return showo.eval()


def build_vq_model() -> MAGVITv2:
    torch.manual_seed(1)
    model = MAGVITv2(
        ch=8,
        encoder_ch_mult=(1, 1, 2),
        encoder_num_res_blocks=(1, 1, 1),
        decoder_ch_mult=(1, 1, 2),
        decoder_num_res_blocks=(1, 1, 1),
        z_channels=6,
        num_groups=4,
    )
    return model.eval()


def build_pipeline() -> ShowoPipeline:
    pipeline = ShowoPipeline(
        build_transformer(),
        build_vq_model(),
        TOKENIZER,
        max_sequence_length=16,
        num_inference_steps=6,
        guidance_scale=1.5,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
