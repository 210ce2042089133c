"""The learning rate goes up and down as configured, and only matrices decay."""

import math

import pytest
import torch
from accelerate import Accelerator

from generators.showo.trainable import ShowoGenerator
from trainer.config import OptimizerConfig
from trainer.layout import Layout
from trainer.learning_rate import LearningRateSchedule


def test_a_cosine_rises_falls_and_ends_near_nothing() -> None:
    schedule = LearningRateSchedule("cosine", 0.1, 100)
    found = [schedule(step) for step in range(100)]
    assert found[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert found[10] == 1
    assert found[55] == pytest.approx(0.5)
    assert found[99] == pytest.approx(0.5 * (1 + math.cos(math.pi * 89 / 90)))
    assert all(0 < value <= 1 for value in found)


def test_constant_after_its_warm_up() -> None:
    assert [LearningRateSchedule("constant", 0.5, 4)(step) for step in range(4)] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert LearningRateSchedule()(1000) == 1


def test_biases_norms_and_embeddings_do_not_decay(tiny_masked: ShowoGenerator) -> None:
    """The published list of names meets none of Phi's norms and not its embeddings."""
    tiny_masked.train_all()
    settings = OptimizerConfig(learning_rate=1.0, weight_decay=0.5)
    layout = Layout(Accelerator(cpu=True), tiny_masked.transformer, settings)
    before = {name: own.detach().clone() for name, own in layout.parameters.items()}
    layout.scale_learning_rate(0.1)
    layout.step()  # without gradients: nothing but decay
    for name, own in layout.parameters.items():
        kept = name.endswith(("bias", "layernorm.weight", "embed_tokens.weight"))
        assert torch.allclose(own, before[name] * (1.0 if kept else 1 - 0.1 * 0.5)), name
