"""Which tokens are masked again."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from generators.showo.remasking import gumbel, lowest_confidence


def masked(
    probabilities: list[float], known: list[bool], number: int, temperature: float, uniform: list[float]
) -> list[int]:
    rows = lowest_confidence(
        torch.tensor([probabilities]),
        torch.tensor([known]),
        torch.tensor([number]),
        torch.tensor([temperature]),
        torch.tensor([uniform]),
    )
    return rows[0].nonzero()[:, 0].tolist()


def test_without_chance_the_least_likely_go() -> None:
    assert masked([0.5, 0.1, 0.9, 0.2], [False] * 4, 2, 0.0, [0.3, 0.9, 0.1, 0.5]) == [1, 3]


def test_chance_can_turn_the_order() -> None:
    # log 0.1 + G(0.9) = -2.303 + 2.250 is above log 0.5 + G(0.1) = -0.693 - 0.834
    assert masked([0.5, 0.1, 0.9, 0.2], [False] * 4, 1, 1.0, [0.1, 0.9, 0.9, 0.9]) == [0]


def test_known_tokens_stay_however_unlikely() -> None:
    assert masked([1e-30, 0.9, 0.8, 0.7], [True, False, False, False], 2, 1.0, [1e-30, 0.5, 0.5, 0.5]) == [2, 3]


def test_the_noise_is_gumbel_noise_and_finite_at_both_ends() -> None:
    torch.testing.assert_close(gumbel(torch.tensor(0.5)).item(), -math.log(math.log(2)), atol=1e-7, rtol=0)
    ends = gumbel(torch.tensor([0.0, 1.0]))
    assert torch.allclose(ends, torch.tensor([-math.log(-math.log(1e-20)), -math.log(1e-20)]))


@given(st.integers(0, 2**32), st.integers(2, 40), st.floats(0, 1, width=32), st.data())
def test_exactly_as_many_as_asked_for_and_none_that_is_known(
    seed: int, tokens: int, temperature: float, data: st.DataObject
) -> None:
    generator = torch.Generator().manual_seed(seed)
    unknown = data.draw(st.integers(2, tokens))
    known = torch.rand(1, tokens, generator=generator).argsort(1) >= unknown
    number = data.draw(st.integers(1, unknown - 1))
    rows = lowest_confidence(
        torch.rand(1, tokens, generator=generator).clamp(min=1e-6),
        known,
        torch.tensor([number]),
        torch.tensor([temperature]),
        torch.rand(1, tokens, generator=generator),
    )
    assert rows.sum() <= number
    assert rows.sum() >= number - 1  # two may tie in float32
    assert not (rows & known).any()
