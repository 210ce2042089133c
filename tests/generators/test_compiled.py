"""Compiling changes no numbers, and no names: adapters are saved as before."""

import pytest
import torch
from euler import noise

from generators.trainable import TrainableGenerator


@pytest.mark.slow
def test_compiled_in_place(generator: TrainableGenerator) -> None:
    parameters = generator.add_lora(2, 6)
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in parameters:
            parameter.normal_(std=0.2)
    names = list(generator.transformer.state_dict())
    latents, level, prompts = noise(generator, 2), torch.tensor([0.9, 0.3]), generator.encode_prompts(["a", "two cats"])
    plain = generator.predict_velocity(latents, level, prompts, 2.0)
    generator.compile()
    compiled = generator.predict_velocity(latents, level, prompts, 2.0)
    torch.testing.assert_close(compiled, plain, rtol=1e-3, atol=1e-3)
    compiled.square().mean().backward()
    assert all(parameter.grad is not None for parameter in parameters)
    with generator.without_adapter():
        assert (generator.predict_velocity(latents, level, prompts, 2.0) - compiled).abs().max() > 0.01
    assert list(generator.transformer.state_dict()) == names
