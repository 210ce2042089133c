"""Mask-and-predict sampling: the published loop, whatever is batched, cached, or dropped on the way."""

import math
from collections.abc import Sequence

import pytest
import torch
from tiny_showo import CODES, TOKENIZER, TOKENS, build_transformer
from torch import Tensor

from assay.errors import ConfigError
from generators.showo.attention_mask import text_to_image_mask
from generators.showo.cached_prefix import CachedPrefix
from generators.showo.prompting import PromptLayout, image_segments
from generators.showo.sampler import MaskPredictSampling, categorical
from generators.showo.sampling_settings import SamplingSettings
from generators.showo.transformer import Showo

PROMPTS = ["a photo of two apples", "a photo of a cup", "a photo of two apples", "a photo of a red car and a blue kite"]
SETTINGS = SamplingSettings(num_steps=6, guidance_scale=1.5)


def layout_of(showo: Showo) -> PromptLayout:
    return PromptLayout(showo.vocabulary, TOKENIZER, 16)


def seeded(seeds: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def start(
    showo: Showo,
    prompts: Sequence[str] = PROMPTS,
    settings: SamplingSettings = SETTINGS,
    seeds: Sequence[int] | None = None,
    first: int = 0,
) -> MaskPredictSampling:
    layout = layout_of(showo)
    seeds = range(len(prompts)) if seeds is None else seeds
    return MaskPredictSampling(showo, layout.prefixes(prompts), layout.prefixes([""]), seeded(seeds), settings, first)


@torch.no_grad()
def plain_loop(showo: Showo, prompt: str, generator: torch.Generator, settings: SamplingSettings) -> Tensor:
    """The published loop written out for one picture: whole sequences, no cache, numbers as its description has."""
    layout, vocabulary, n = layout_of(showo), showo.vocabulary, TOKENS
    canvas = torch.full((1, n), vocabulary.mask)
    tau = settings.temperature
    for step in range(settings.num_steps):
        both = torch.cat([layout.sequences([prompt], canvas), layout.sequences([""], canvas)])
        logits = showo(both, text_to_image_mask(both, vocabulary))[:, -(n + 1) : -1, vocabulary.image_offset : -1]
        guided = (1 + settings.guidance_scale) * logits[0] - settings.guidance_scale * logits[1]
        p = guided.softmax(-1)
        unknown = canvas[0] == vocabulary.mask
        up_to = torch.rand(n, 1, generator=generator, dtype=torch.float64) * p.double().sum(-1, keepdim=True)
        drawn = (p.double().cumsum(-1) <= up_to).sum(-1)
        ids = torch.where(unknown, drawn, canvas[0] - vocabulary.image_offset)
        r = (step + 1) / settings.num_steps
        m = math.floor(n * torch.cos(torch.tensor(r) * math.pi * 0.5))
        m = max(1, min(int(unknown.sum()) - 1, m))
        confidence = torch.where(unknown, p[torch.arange(n), ids], torch.finfo(torch.float32).max)
        tau *= 1 - r
        u = torch.zeros(1, n).uniform_(0, 1, generator=generator)[0]
        c = confidence.clamp(min=1e-20).log() + tau * -(-u.clamp(min=1e-20).log()).clamp(min=1e-20).log()
        cut = c.sort().values[m]
        canvas = torch.where(c < cut, vocabulary.mask, ids + vocabulary.image_offset)[None]
    return ids


def test_it_is_the_published_loop(showo: Showo) -> None:
    for prompt, seed in zip(PROMPTS, range(4), strict=True):
        wanted = plain_loop(showo, prompt, torch.Generator().manual_seed(seed), SETTINGS)
        assert torch.equal(start(showo, [prompt], seeds=[seed]).finish()[0], wanted)


def test_codes_are_drawn_as_often_as_they_are_probable() -> None:
    probabilities = torch.tensor([[0.0, 0.5, 0.0, 0.3, 0.2, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]])
    uniform = torch.rand(20000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = categorical(probabilities.expand(20000, -1, -1), uniform)
    assert (drawn[:, 1] == 5).all()
    frequencies = drawn[:, 0].bincount(minlength=6) / 20000
    torch.testing.assert_close(frequencies, probabilities[0], atol=0.012, rtol=0)  # 3.4 standard errors
    assert (frequencies[[0, 2, 5]] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_of_the_range_draw_what_is_possible(dtype: torch.dtype) -> None:
    """Also where probabilities add up to a little less than 1, as rounding leaves them."""
    probabilities = torch.tensor([0.0, 0.4999, 0.4999, 0.0], dtype=dtype).expand(3, -1)
    uniform = torch.tensor([0.0, 0.5, 1 - 2.0**-53], dtype=torch.float64)
    assert categorical(probabilities, uniform).tolist() == [1, 2, 2]


def test_many_together_are_what_each_is_alone(showo: Showo) -> None:
    together = start(showo).finish()
    alone = [start(showo, [prompt], seeds=[seed]).finish()[0] for seed, prompt in enumerate(PROMPTS)]
    assert torch.equal(together, torch.stack(alone))
    assert len({tuple(row) for row in together.tolist()}) == 4
    assert 0 <= together.min() <= together.max() < CODES


@pytest.mark.parametrize("guidance_scale", [0.0, 1.5])
def test_a_cached_prompt_gives_the_logits_of_the_whole_sequence(showo: Showo, guidance_scale: float) -> None:
    layout = layout_of(showo)
    prefixes = layout.prefixes(PROMPTS)
    unconditional = layout.prefixes([""]) if guidance_scale else None
    prefix = CachedPrefix.of_candidates(showo, prefixes, unconditional)
    texts = PROMPTS + [""] * 4 * bool(guidance_scale)
    for seed in range(3):  # the cache serves again and again
        generator = torch.Generator().manual_seed(seed)
        image = torch.randint(
            showo.vocabulary.image_offset, showo.vocabulary.size, (len(texts), TOKENS), generator=generator
        )
        whole = layout.sequences(texts, image)
        with torch.no_grad():
            wanted = showo.image_logits(whole, text_to_image_mask(whole, showo.vocabulary))
        torch.testing.assert_close(
            prefix.image_logits(image_segments(image, showo.vocabulary)), wanted, atol=1e-5, rtol=1e-5
        )


def test_each_prompt_is_read_once(showo: Showo, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[tuple[int, ...]] = []
    forward = showo.showo.model.forward
    monkeypatch.setattr(
        showo.showo.model, "forward", lambda **inputs: lengths.append(inputs["input_ids"].shape) or forward(**inputs)
    )
    start(showo).finish()
    assert lengths == [(4, 17), *[(8, TOKENS + 2)] * 6]  # three distinct prompts and the unconditional one


def test_dropping_candidates_does_not_change_the_others(showo: Showo) -> None:
    wanted = start(showo).finish()
    pruned = start(showo)
    pruned.step()
    pruned.keep([3, 0, 2])
    pruned.step()
    pruned.step()
    pruned.keep([0, 2])
    assert pruned.candidates == (3, 2)
    assert torch.equal(pruned.finish(), wanted[[3, 2]])
    assert [len(step.candidates) for step in pruned.trace] == [4, 3, 3, 2, 2, 2]


def test_keeping_none_ends_the_run(showo: Showo) -> None:
    run = start(showo)
    run.step()
    run.keep([])
    assert run.finished
    assert run.finish().shape == (0, TOKENS)


def test_branches_share_the_past_and_differ_from_then_on(showo: Showo) -> None:
    run = start(showo, PROMPTS[:2])
    run.step()
    known = ~run.trace[0].masked[1]
    run.keep([1, 1, 1], seeded([7, 8, 7]))
    codes = run.finish()
    assert run.candidates == (1, 1, 1)
    assert torch.equal(codes[0], codes[2])
    assert not torch.equal(codes[0], codes[1])
    assert torch.equal(codes[1][known], run.trace[0].codes[1][known])


def test_the_trace_holds_every_step(showo: Showo) -> None:
    run = start(showo)
    canvases = []
    while not run.finished:
        canvases.append(run.image_ids)
        run.step()
    assert [step.index for step in run.trace] == list(range(6))
    assert [int(step.masked[0].sum()) for step in run.trace] == [15, 13, 11, 7, 4, 1]
    assert (canvases[0] == showo.vocabulary.mask).all()
    for step, canvas in zip(run.trace[:-1], canvases[1:], strict=True):
        wanted = torch.where(step.masked, showo.vocabulary.mask, step.codes + showo.vocabulary.image_offset)
        assert torch.equal(canvas, wanted)
    for before, after in zip(run.trace[:-1], run.trace[1:], strict=True):
        assert torch.equal(before.codes[~before.masked], after.codes[~before.masked])
        assert not (after.masked & ~before.masked).any()
    assert torch.equal(run.codes, run.trace[-1].codes)
    assert all(((step.probabilities > 0) & (step.probabilities <= 1)).all() for step in run.trace)


def test_guidance_is_off_at_zero(showo: Showo) -> None:
    plain = SamplingSettings(num_steps=3, guidance_scale=0.0)
    run = start(showo, settings=plain)
    assert not torch.equal(run.finish(), start(showo, settings=SamplingSettings(num_steps=3)).finish())
    assert torch.equal(start(showo, PROMPTS[:1], plain).finish()[0], run.codes[0])


def test_carrying_the_temperature_reproduces_the_published_scripts(showo: Showo) -> None:
    carried = SamplingSettings(num_steps=6, guidance_scale=1.5, temperature_carry=True)
    frozen = SamplingSettings(num_steps=6, guidance_scale=1.5, temperature=0.0)
    codes = start(showo, settings=carried).finish()
    annealed, cold = start(showo).finish(), start(showo, settings=frozen).finish()
    assert torch.equal(codes[[0, 1, 3]], annealed[[0, 1, 3]])  # each the first of its prompt
    assert torch.equal(codes[2], cold[2])  # the second of "two apples"
    assert not torch.equal(cold[2], annealed[2])
    assert torch.equal(start(showo, settings=carried, first=4).finish(), cold)


@pytest.mark.parametrize("anneal", ["cumulative", "linear"])
def test_schedules_and_annealing_are_obeyed(showo: Showo, anneal: str) -> None:
    run = start(showo, settings=SamplingSettings(num_steps=4, schedule="linear", anneal=anneal))  # type: ignore[arg-type]
    run.finish()
    assert [int(step.masked[0].sum()) for step in run.trace] == [12, 8, 4, 1]


def test_a_broken_model_draws_nothing() -> None:
    showo = build_transformer()
    with torch.no_grad():
        showo.showo.lm_head.bias.fill_(torch.nan)
    with pytest.raises(ArithmeticError, match="logits are not finite"):
        start(showo).step()


def test_a_step_that_broke_off_is_not_gone_on_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when memory runs out half-way through: the layers before have the image among the prompt's states."""
    showo = build_transformer()
    run = start(showo)
    run.step()

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(showo.showo.model.layers[1], "forward", fail)
        with pytest.raises(MemoryError):
            run.step()
    with pytest.raises(RuntimeError, match="an earlier forward pass broke off"):
        run.step()


def test_misuse_is_refused(showo: Showo) -> None:
    layout = layout_of(showo)
    with pytest.raises(ConfigError, match="1 generators for 2 prompts; one each is needed"):
        MaskPredictSampling(showo, layout.prefixes(PROMPTS[:2]), layout.prefixes([""]), seeded([0]), SETTINGS)
    run = start(showo)
    with pytest.raises(RuntimeError, match="no step was taken yet"):
        _ = run.codes
    with pytest.raises(ConfigError, match="row 4 cannot be kept; allowed: 0 to 3"):
        run.keep([0, 4])
    with pytest.raises(ConfigError, match=r"rows \[1, 1\] repeat one"):
        run.keep([1, 1])
    with pytest.raises(ConfigError, match="1 generators for 2 rows"):
        run.keep([1, 1], seeded([0]))
    run.finish()
    with pytest.raises(RuntimeError, match="the sampling is finished"):
        run.step()
