"""The transformer is the published one in names and shapes, and computes what transformers' Phi computes."""

import pytest
import torch
from file_size import safetensors_bytes
from peft import LoraConfig
from tiny_showo import LANGUAGE_MODEL, TOKENIZER, TOKENS, build_transformer
from transformers import PhiConfig, PhiForCausalLM

from assay.errors import ConfigError
from generators.showo.attention_mask import additive, text_to_image_mask
from generators.showo.prompting import PromptLayout
from generators.showo.transformer import Showo


def sequences(showo: Showo, *texts: str) -> torch.Tensor:
    layout = PromptLayout(showo.vocabulary, TOKENIZER, 16)
    first = showo.vocabulary.image_offset
    codes = torch.randint(first, first + 65, (len(texts), TOKENS), generator=torch.Generator().manual_seed(0))
    return layout.sequences(texts, codes)


@pytest.fixture(scope="module")
def published() -> Showo:
    with torch.device("meta"):
        return Showo()


def test_names_and_shapes_are_the_published_ones(published: Showo) -> None:
    wide, inner, ids = 2048, 8192, 58498
    wanted = {
        "showo.model.embed_tokens.weight": (ids, wide),
        "showo.model.final_layernorm.weight": (wide,),
        "showo.model.final_layernorm.bias": (wide,),
        "showo.lm_head.weight": (ids, wide),
        "showo.lm_head.bias": (ids,),
    }
    for index in range(24):
        layer = f"showo.model.layers.{index}"
        for name in ("q_proj", "k_proj", "v_proj", "dense"):
            wanted |= {f"{layer}.self_attn.{name}.weight": (wide, wide), f"{layer}.self_attn.{name}.bias": (wide,)}
        for name in ("q_layernorm", "k_layernorm"):
            wanted |= {f"{layer}.self_attn.{name}.weight": (64,), f"{layer}.self_attn.{name}.bias": (64,)}
        wanted |= {f"{layer}.mlp.fc1.weight": (inner, wide), f"{layer}.mlp.fc1.bias": (inner,)}
        wanted |= {f"{layer}.mlp.fc2.weight": (wide, inner), f"{layer}.mlp.fc2.bias": (wide,)}
        wanted |= {f"{layer}.input_layernorm.weight": (wide,), f"{layer}.input_layernorm.bias": (wide,)}
    tensors = published.state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == wanted
    assert len(tensors) == 437
    assert sum(parameter.numel() for parameter in published.parameters()) == 1_448_176_770


def test_the_file_would_have_as_many_bytes_as_the_published_one(published: Showo) -> None:
    assert safetensors_bytes(published.state_dict()) == 5_792_758_016


def test_the_configuration_is_the_published_one(published: Showo) -> None:
    wanted = {
        "codebook_size": 8192,
        "llm_model_path": "microsoft/phi-1_5",
        "llm_vocab_size": 50295,
        "mask_token_id": 58497,
        "num_vq_tokens": 256,
        "vocab_size": 58498,
        "w_clip_vit": False,
    }
    assert {name: published.config[name] for name in wanted} == wanted
    phi = published.showo.config
    assert (phi.num_hidden_layers, phi.num_attention_heads, phi.num_key_value_heads) == (24, 32, 32)
    assert phi.rope_parameters["partial_rotary_factor"] == 0.5
    assert phi.rope_parameters["rope_theta"] == 10000
    assert not phi.tie_word_embeddings


def test_variants_with_a_clip_tower_have_its_projector() -> None:
    with torch.device("meta"):
        tensors = Showo(w_clip_vit=True).state_dict()
    assert len(tensors) == 441
    assert tensors["mm_projector.0.weight"].shape == (2048, 1024)
    assert tensors["mm_projector.2.weight"].shape == (2048, 2048)


def test_logits_are_those_of_phi_with_the_same_mask(showo: Showo) -> None:
    """Phi with plain attention and an added mask, so that neither the kernel nor the kind of mask matters."""
    phi = PhiForCausalLM(PhiConfig(**LANGUAGE_MODEL, vocab_size=showo.config.vocab_size, qk_layernorm=True)).eval()
    phi.load_state_dict(showo.showo.state_dict())
    phi.set_attn_implementation("eager")
    ids = sequences(showo, "a photo of two apples", "")
    allowed = text_to_image_mask(ids, showo.vocabulary)
    with torch.no_grad():
        wanted = phi(input_ids=ids, attention_mask=additive(allowed)).logits
        for mask in (allowed, additive(allowed)):
            torch.testing.assert_close(showo(ids, mask), wanted, atol=1e-5, rtol=1e-5)
    assert wanted.abs().max() > 2


def test_each_position_sees_just_what_the_mask_allows(showo: Showo) -> None:
    ids = sequences(showo, "a photo of two apples")
    allowed = text_to_image_mask(ids, showo.vocabulary)
    changed = ids.clone()
    changed[0, 12] = TOKENIZER.bos_token_id  # a word of the text
    changed[0, 25] = showo.vocabulary.mask  # an image token
    assert (changed != ids).sum() == 2
    with torch.no_grad():
        moved = (showo(changed, allowed) - showo(ids, allowed)).abs().amax(-1)[0]
    assert torch.equal(moved[:12], torch.zeros(12))
    assert (moved[12:] > 1e-4).all()


def test_image_logits_are_a_part_of_all_logits(showo: Showo) -> None:
    ids = sequences(showo, "a photo of two apples", "a photo of a cup")
    mask = text_to_image_mask(ids, showo.vocabulary)
    with torch.no_grad():
        wanted = showo(ids, mask)[:, -TOKENS - 1 : -1, showo.vocabulary.image_offset : -1]
        torch.testing.assert_close(showo.image_logits(ids, mask), wanted)
    assert wanted.shape == (2, TOKENS, 64)


def test_a_lora_on_the_head_reaches_the_image_logits() -> None:
    showo = build_transformer()
    ids = sequences(showo, "a photo of a cup")
    mask = text_to_image_mask(ids, showo.vocabulary)
    with torch.no_grad():
        before = showo.image_logits(ids, mask)
        showo.add_adapter(LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False))
        after = showo.image_logits(ids, mask)
        torch.testing.assert_close(after, showo(ids, mask)[:, -TOKENS - 1 : -1, showo.vocabulary.image_offset : -1])
    assert (after - before).abs().max() > 1e-3


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    gradients = []
    for checkpointed in (False, True):
        showo = build_transformer().train()
        if checkpointed:
            showo.enable_gradient_checkpointing()
            assert showo.showo.is_activation_checkpointing
        ids = sequences(showo, "a photo of a cup")
        showo(ids, text_to_image_mask(ids, showo.vocabulary)).square().mean().backward()
        gradients.append(showo.showo.model.embed_tokens.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": 58497}, r"vocab_size is 58497; allowed: at least 58498"),
        ({"mask_token_id": 58496}, r"mask_token_id is 58496; allowed: 58497, the last id"),
        (
            {"llm_model_path": "microsoft/phi-2"},
            r"llm_model_path is 'microsoft/phi-2'; allowed: 'microsoft/phi-1_5', or",
        ),
        ({"llm_config": {"hidden_width": 8}}, r"llm_config.hidden_width is not known; allowed: .*hidden_size"),
        ({"llm_config": {"qk_layernorm": False}}, r"llm_config.qk_layernorm is not known"),
    ],
)
def test_contradictory_configurations_are_refused(settings: dict[str, object], message: str) -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match=message):
        Showo(**settings)
