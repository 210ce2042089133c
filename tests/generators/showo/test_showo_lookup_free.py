"""Codes are the signs of numbers, most significant first: nothing is lost on the way and back."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from generators.showo.lookup_free import LookupFreeQuantizer

NUMBERS = st.floats(-4, 4, allow_nan=False, width=32)


def test_the_first_number_is_the_most_significant_bit() -> None:
    quantizer = LookupFreeQuantizer(13)
    assert quantizer.embedding.shape == (8192, 13)
    assert quantizer.embedding[5].tolist() == [-1] * 10 + [1, -1, 1]
    assert quantizer.power_vals.tolist() == [2**k for k in range(12, -1, -1)]
    numbers = torch.full((1, 13, 1, 1), -0.5)
    numbers[0, 0] = 0.1
    assert quantizer.codes(numbers).tolist() == [[4096]]


def test_zero_counts_as_not_above_zero() -> None:
    assert LookupFreeQuantizer(3).codes(torch.zeros(1, 3, 1, 1)).tolist() == [[0]]


@given(st.integers(1, 8), st.data())
def test_every_code_survives_the_way_to_signs_and_back(bits: int, data: st.DataObject) -> None:
    quantizer = LookupFreeQuantizer(bits)
    codes = torch.tensor([data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=6, max_size=6))])
    signs = quantizer.signs(codes).unflatten(1, (2, 3)).permute(0, 3, 1, 2)
    assert torch.equal(quantizer.codes(signs), codes)


@given(st.lists(NUMBERS, min_size=10, max_size=10), st.floats(0.25, 8, width=32))
def test_codes_depend_on_signs_alone(numbers: list[float], scale: float) -> None:
    quantizer = LookupFreeQuantizer(5)
    grid = torch.tensor(numbers).reshape(1, 5, 1, 2)
    codes = quantizer.codes(grid)
    assert torch.equal(quantizer.codes(torch.where(grid > 0, scale, -scale)), codes)
    digits = [[str(int(value > 0)) for value in grid[0, :, 0, place]] for place in range(2)]
    assert codes[0].tolist() == [int("".join(bits), 2) for bits in digits]


@given(st.lists(NUMBERS, min_size=10, max_size=10))
def test_training_sees_signs_and_an_unbroken_gradient(numbers: list[float]) -> None:
    quantizer = LookupFreeQuantizer(5)
    grid = torch.tensor(numbers).reshape(1, 5, 1, 2).requires_grad_()
    signs = quantizer.straight_through(grid)
    wanted = quantizer.signs(quantizer.codes(grid)).unflatten(1, (1, 2)).permute(0, 3, 1, 2)
    torch.testing.assert_close(signs.detach(), wanted)
    signs.sum().backward()
    assert torch.equal(grid.grad, torch.ones_like(grid))
