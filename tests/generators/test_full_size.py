"""The published architectures, without their weights: every layer that should get a LoRA gets one."""

import pytest
import torch
from full_size_models import FULL_SIZE

from generators.flux import FluxGenerator
from generators.flux2_klein_trainable import Flux2KleinTrainable
from generators.lora import add_lora
from generators.sd3 import SD3Generator
from generators.trainable import TrainableGenerator


# Both streams' eight projections in each block; SD3's last block has no output projection for the text, and FLUX.1's
# four feed-forward layers are in; a single block has three projections in FLUX.1 and two fused layers in FLUX.2.
@pytest.mark.parametrize(
    ("model", "generator", "billions", "layers"),
    [
        ("stabilityai/stable-diffusion-3.5-medium", SD3Generator, 2.2, 24 * 8 - 1),
        ("stabilityai/stable-diffusion-3.5-large", SD3Generator, 8.0, 38 * 8 - 1),
        ("black-forest-labs/FLUX.1-dev", FluxGenerator, 11.9, 19 * 12 + 38 * 3),
        ("black-forest-labs/FLUX.2-klein-base-4B", Flux2KleinTrainable, 3.9, 5 * 8 + 20 * 2),
    ],
)
def test_layers_with_a_lora(model: str, generator: type[TrainableGenerator], billions: float, layers: int) -> None:
    with torch.device("meta"):
        transformer = FULL_SIZE[model]().transformer.requires_grad_(False)
        assert sum(parameter.numel() for parameter in transformer.parameters()) / 1e9 == pytest.approx(
            billions, abs=0.3
        )
        parameters = add_lora(transformer, 32, 64, generator.LORA_TARGETS)
    assert len(parameters) == 2 * layers
    assert all(parameter.requires_grad for parameter in parameters)
