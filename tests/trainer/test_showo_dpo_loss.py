"""DPO for Show-o against numbers worked out by hand: what counts, what is shared by a pair, and which way it pushes."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from toy_masked_model import CODES, EOI, SOI, ToyMaskedModel

from generators.embeddings import PromptEmbeddings
from generators.showo.attention_mask import text_to_image_mask
from generators.showo.prompting import IGNORED
from generators.showo.trainable import ShowoGenerator
from generators.showo.training_inputs import mask_images
from trainer.algorithms.algorithm import TrainingBatch
from trainer.algorithms.masked_tokens import draw
from trainer.algorithms.showo_dpo import ShowoDpo, ShowoDpoConfig
from trainer.algorithms.showo_sft import ShowoSft, ShowoSftConfig
from trainer.metric_sums import MetricSums

LOGITS = [0.3, -1.0, 0.8, 0.1, 1.0, -0.5, 0.2, 0.7]
MOVED = [0.1, 0.4, -0.3, 0.9, 1.6, -0.9, 0.4, 0.2]
BETTER, WORSE = [0, 3, 0, 0, 1, 0], [1, 1, 2, 3, 1, 2]
EMPTY = PromptEmbeddings(torch.tensor([[0]]))


def config(**settings: Any) -> ShowoDpoConfig:
    return ShowoDpoConfig.model_validate({"name": "showo_dpo", "prompt_dropout": 0, **settings})


def toy_batch(weights: tuple[float, ...] = (1.0,)) -> TrainingBatch:
    number = len(weights)
    return TrainingBatch(
        seeds=list(range(number)),
        prompts=PromptEmbeddings(torch.full((number, 1), 1)),
        weights=torch.tensor(weights),
        clean=torch.tensor([BETTER] * number),
        rejected=torch.tensor([WORSE] * number),
    )


def moved(settings: ShowoDpoConfig) -> tuple[ShowoDpo, ToyMaskedModel]:
    """A policy that is no longer its reference."""
    model = ToyMaskedModel(LOGITS)
    algorithm = ShowoDpo(settings, model, EMPTY, [model.logits])
    with torch.no_grad():
        model.logits.copy_(torch.tensor(MOVED))
    return algorithm, model


def log_softmax(logits: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in logits)
    return [math.log(math.exp(value) / total) for value in logits]


def test_the_loss_by_hand() -> None:
    """Both images hidden in the same places, probabilities among the four codes."""
    algorithm, model = moved(config(beta=0.4))
    (loss,) = algorithm.losses(toy_batch(), MetricSums())
    (_, _, masked) = model.seen[-1]
    assert torch.equal(masked[0], masked[1])
    policy, reference = log_softmax(MOVED[CODES:]), log_softmax(LOGITS[CODES:])
    hidden = masked[0].nonzero()[:, 0].tolist()
    gain = [policy[code] - reference[code] for code in range(4)]
    margin = sum(gain[BETTER[place]] - gain[WORSE[place]] for place in hidden)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-0.4 * margin)), rel=1e-5)
    assert model.logits.tolist() == pytest.approx(MOVED)  # the reference that was put in place is out again


def test_the_mean_over_masks_stands_inside_the_sigmoid() -> None:
    algorithm, model = moved(config(mask_draws=3))
    metrics = MetricSums()
    (loss,) = algorithm.losses(toy_batch(), metrics)
    masked = model.seen[-1][2].view(2, 3, 6)
    policy, reference = log_softmax(MOVED[CODES:]), log_softmax(LOGITS[CODES:])
    gain = np.array([policy[code] - reference[code] for code in range(4)])
    each = [(gain[BETTER] - gain[WORSE])[own.numpy()].sum() for own in masked[0]]
    assert len({round(value, 6) for value in each}) > 1
    assert loss.item() == pytest.approx(math.log1p(math.exp(-0.1 * np.mean(each))), rel=1e-5)
    assert metrics.means()["margin"] == pytest.approx(np.mean(each), rel=1e-5)


def test_the_published_formula_by_its_switches() -> None:
    """Masks and dropped texts of their own for both images, all ids in the softmax, soi and eoi counted."""
    compat = {"independent_draws": True, "whole_vocabulary": True, "count_marks": True}
    algorithm, model = moved(config(compat=compat, prompt_dropout=0.5))
    batch = replace(toy_batch((1.0,) * 16))
    losses = list(algorithm.losses(batch, MetricSums()))
    prompts, _, masked = model.seen[-1]
    assert not torch.equal(masked[:16], masked[16:])
    assert not torch.equal(prompts[:16], prompts[16:])
    expected = 0.0
    for pair in range(16):
        sums = []
        for row, codes in ((pair, BETTER), (16 + pair, WORSE)):
            factor = 0.5 if prompts[row, 0] == 0 else 1.0
            policy, reference = (log_softmax([factor * value for value in own]) for own in (MOVED, LOGITS))
            ids = [SOI, EOI, *(CODES + code for code, hidden in zip(codes, masked[row], strict=True) if hidden)]
            sums.append(sum(policy[own] - reference[own] for own in ids))
        expected += math.log1p(math.exp(-0.1 * (sums[0] - sums[1])))
    assert losses[0].item() == pytest.approx(expected, rel=1e-5)


def test_text_is_left_out_of_both_images_of_a_pair_alike() -> None:
    algorithm, model = moved(config(prompt_dropout=0.5))
    list(algorithm.losses(toy_batch((1.0,) * 32), MetricSums()))
    better, worse = model.seen[-1][0][:, 0].chunk(2)
    assert torch.equal(better, worse)
    assert 5 < int((better == 0).sum()) < 27


def test_the_marks_are_not_counted_unless_asked_for() -> None:
    """The whole vocabulary alone: two log-probabilities less than with them."""
    plain, _ = moved(config(compat={"whole_vocabulary": True}, sft_weight=1.0, beta=1e-9))
    counted, _ = moved(config(compat={"whole_vocabulary": True, "count_marks": True}, sft_weight=1.0, beta=1e-9))
    (one,), (other,) = (list(own.losses(toy_batch(), MetricSums())) for own in (plain, counted))
    marks = log_softmax(MOVED)[SOI] + log_softmax(MOVED)[EOI]
    hidden = int(draw(config(), [0], 6).masked.sum())
    assert (other - one).item() == pytest.approx(-marks / hidden, rel=1e-4)


def test_with_normalised_lengths_few_hidden_tokens_count_as_many() -> None:
    algorithm, model = moved(config(normalise_length=True))
    metrics = MetricSums()
    list(algorithm.losses(toy_batch((1.0,)), metrics))
    hidden = model.seen[-1][2][0]
    policy, reference = log_softmax(MOVED[CODES:]), log_softmax(LOGITS[CODES:])
    gain = np.array([policy[code] - reference[code] for code in range(4)])
    mean = (gain[BETTER] - gain[WORSE])[hidden.numpy()].mean()
    assert metrics.means()["margin"] == pytest.approx(6 * mean, rel=1e-5)


@pytest.mark.parametrize("normalise_length", [False, True])
def test_the_supervised_part_is_the_mean_cross_entropy_of_the_better_image(normalise_length: bool) -> None:
    settings = {"normalise_length": normalise_length}
    (plain,), (with_sft,) = (
        list(moved(config(sft_weight=weight, **settings))[0].losses(toy_batch(), MetricSums())) for weight in (0.0, 0.3)
    )
    hidden = draw(config(), [0], 6).masked[0, 0].numpy()
    mean = -np.array([log_softmax(MOVED[CODES:])[code] for code in BETTER])[hidden].mean()
    assert (with_sft - plain).item() == pytest.approx(0.3 * mean, rel=1e-4)


def test_masks_depend_on_the_seed_alone_and_cover_all_shares() -> None:
    together, alone = draw(config(mask_draws=8), [5, 6], 256), draw(config(mask_draws=8), [6], 256)
    assert torch.equal(together.masked[1], alone.masked[0])
    assert not torch.equal(together.masked[0], together.masked[1])
    shares = together.masked.float().mean(2)
    assert bool((shares[:, :-1] > shares[:, 1:]).all())  # the k-th draw from the k-th eighth of the schedule
    one = draw(config(), list(range(2000)), 64).masked.float().mean()
    assert one.item() == pytest.approx(2 / math.pi, abs=0.02)


def test_samples_of_weight_zero_count_in_nothing() -> None:
    algorithm, _ = moved(config())
    metrics = MetricSums()
    (loss,) = algorithm.losses(toy_batch((0.0, 0.5)), metrics)
    (alone,) = algorithm.losses(replace(toy_batch(), seeds=[1]), MetricSums())
    assert loss.item() == pytest.approx(0.5 * alone.item(), rel=1e-6)
    assert metrics.numbers["margin"] == 1


def test_supervised_fine_tuning_by_hand() -> None:
    settings = ShowoSftConfig.model_validate({"name": "showo_sft", "data": "x", "mask_draws": 2})
    assert settings.optimizer_steps_per_epoch == 50
    model = ToyMaskedModel(LOGITS)
    batch = replace(toy_batch((1.0, 1.0)), rejected=None)
    (loss,) = ShowoSft(settings, model).losses(batch, MetricSums())
    masked = model.seen[-1][2].numpy()
    each = -np.array([log_softmax(LOGITS[CODES:])[code] for code in BETTER])
    assert loss.item() == pytest.approx(sum(each[own].sum() for own in masked) / 2 / 6, rel=1e-5)


def real_batch(model: ShowoGenerator, number: int = 2) -> TrainingBatch:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(number)]
    flat = [np.full((64, 64, 3), 40 * index, np.uint8) for index in range(number)]
    return TrainingBatch(
        seeds=list(range(number)),
        prompts=model.encode_prompts(["a photo of two apples", "a photo of a cup"][:number]),
        weights=torch.ones(number),
        clean=model.encode_images(flat),
        rejected=model.encode_images(noise),
    )


def set_up(model: ShowoGenerator, **settings: Any) -> tuple[ShowoDpo, list[torch.nn.Parameter]]:
    torch.manual_seed(1)
    parameters = model.add_lora(4, 8)
    return ShowoDpo(config(**settings), model, model.encode_prompts([""]), parameters), parameters


@pytest.mark.parametrize("whole", [False, True])
def test_at_the_start_the_loss_is_exactly_log_two(tiny_masked: ShowoGenerator, whole: bool) -> None:
    parameters = tiny_masked.train_all() if whole else tiny_masked.add_lora(4, 8)
    negative = tiny_masked.encode_prompts([""])
    algorithm = ShowoDpo(config(mask_draws=2, prompt_dropout=0.3), tiny_masked, negative, parameters)
    metrics = MetricSums()
    (loss,) = algorithm.losses(real_batch(tiny_masked), metrics)
    assert metrics.means()["margin"] == 0
    assert loss.item() == 2 * -F.logsigmoid(torch.tensor(0.0)).item()
    assert loss.item() == pytest.approx(2 * math.log(2), rel=1e-6)


def test_the_published_log_probability_of_the_real_model(tiny_masked: ShowoGenerator) -> None:
    """Sequences, labels and mask by the generator's own code for training; -100 and what stands before soi left out."""
    batch, pipeline = real_batch(tiny_masked), tiny_masked.pipeline
    masked = draw(config(), batch.seeds, batch.clean.shape[1]).masked[:, 0]
    vocabulary = pipeline.transformer.vocabulary
    images = mask_images(batch.clean, masked, vocabulary)
    prompts = ["a photo of two apples", "a photo of a cup"]
    ids, labels = pipeline.layout.training_sequences(prompts, images.ids, images.labels)
    logits = pipeline.transformer(ids, text_to_image_mask(ids, vocabulary))
    start = pipeline.layout.prefix_length
    every = F.log_softmax(logits[:, start:], 2).gather(2, labels[:, start:].clamp(min=0)[..., None])[..., 0]
    expected = every.masked_fill(labels[:, start:] == IGNORED, 0)
    found = tiny_masked.log_probs(batch.prompts, batch.clean, masked, whole_vocabulary=True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    among_codes = tiny_masked.log_probs(batch.prompts, batch.clean, masked)
    codes = logits[:, start + 1 : -1, vocabulary.image_offset : -1]
    expected = F.log_softmax(codes, 2).gather(2, batch.clean[..., None])[..., 0].masked_fill(~masked, 0)
    torch.testing.assert_close(among_codes, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("whole", [False, True])
def test_a_few_steps_raise_the_better_image_over_the_worse(tiny_masked: ShowoGenerator, whole: bool) -> None:
    """Measured on masks that training did not draw."""
    torch.manual_seed(1)
    parameters = tiny_masked.train_all() if whole else tiny_masked.add_lora(4, 8)
    algorithm = ShowoDpo(config(mask_draws=2), tiny_masked, tiny_masked.encode_prompts([""]), parameters)
    batch = real_batch(tiny_masked)
    optimizer = torch.optim.AdamW(parameters, lr=1e-3 if whole else 1e-2)
    for step in range(4):
        (loss,) = algorithm.losses(replace(batch, seeds=[10 + step, 20 + step]), MetricSums())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    metrics = MetricSums()
    (loss,) = algorithm.losses(replace(batch, seeds=[98, 99]), metrics)
    found = metrics.means()
    assert found["margin"] > 0.1
    assert found["gain_better"] > found["gain_worse"]
    assert found["implicit_accuracy"] == 1
    assert loss.item() < 2 * math.log(2)
