"""Masked images for training."""

import torch

from generators.showo.training_inputs import draw_masks, mask_images
from generators.showo.vocabulary import Vocabulary

VOCABULARY = Vocabulary(llm_vocab_size=20, codebook_size=16)


def test_what_is_masked_is_what_is_to_be_predicted() -> None:
    codes, masked = torch.tensor([[3, 0, 15]]), torch.tensor([[True, False, True]])
    images = mask_images(codes, masked, VOCABULARY)
    assert images.ids.tolist() == [[VOCABULARY.mask, 30, VOCABULARY.mask]]
    assert images.labels.tolist() == [[33, -100, 45]]


def test_as_many_masks_as_the_schedule_says() -> None:
    """Under the cosine 2 / pi of 256 on average, that is 163.0, and any number from 1 to 256."""
    number = draw_masks(20_000, 256, generator=torch.Generator().manual_seed(0)).sum(1)
    assert abs(number.float().mean().item() - 163.0) < 2
    assert number.min() == 1
    assert number.max() == 256


def test_places_are_drawn_evenly_and_by_the_generator_alone() -> None:
    masks = draw_masks(4000, 16, generator=torch.Generator().manual_seed(0))
    shares = masks.float().mean(0)
    assert (shares - shares.mean()).abs().max() < 0.03
    assert torch.equal(masks, draw_masks(4000, 16, generator=torch.Generator().manual_seed(0)))
    assert draw_masks(50, 1, "linear", torch.Generator().manual_seed(0)).all()
