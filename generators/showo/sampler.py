"""Drawing by mask-and-predict, one step at a time (Show-o; MaskGIT, Chang et al., 2022, arXiv 2202.04200).

All image tokens start masked. A step predicts every token, draws those that are not known yet, and masks the least
certain of them again, fewer with each step. The run is a stepper, so that a judge can look at a half-made picture and
drop candidates in between:

    sampling = MaskPredictSampling(showo, prompts, unconditional, generators, SamplingSettings(num_steps=18))
    while not sampling.finished:
        step = sampling.step()                       # step.codes: a whole picture, to decode and look at
        sampling.keep(good_rows(step))
    codes = sampling.codes
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from assay.errors import ConfigError
from generators.showo.cached_prefix import CachedPrefix
from generators.showo.prompting import image_segments
from generators.showo.remasking import lowest_confidence
from generators.showo.sampling_settings import SamplingSettings
from generators.showo.schedules import mask_schedule, num_masked
from generators.showo.transformer import Showo


@dataclass(frozen=True)
class Step:
    """What one step did. Its input is the previous step's tokens, masked where `masked` was true; all masked at first.

    Args:
        index: of the step, from 0.
        candidates: number of each row, as they were numbered at the start.
        codes: (rows, tokens) int64 image codes, every token filled in.
        masked: (rows, tokens) bool, the tokens that are masked again.
        probabilities: (rows, tokens) float32 of the codes under the guided distribution.
    """

    index: int
    candidates: tuple[int, ...]
    codes: Tensor
    masked: Tensor
    probabilities: Tensor


class MaskPredictSampling:
    """Some candidates on their way, of one prompt or of several, each with its own source of chance.

    A candidate depends on its own generator alone, but for rounding: among others it becomes what it becomes alone.
    Each step takes from it two uniform numbers a token: the first draws its code, the second goes into its confidence.
    They are drawn on the generator's device: those of the CPU are the same everywhere.

    Args:
        showo: the model, in evaluation mode.
        prompts: (candidates, length) ids before soi, as `PromptLayout.prefixes` gives them.
        unconditional: (1, length), those of the empty text.
        generators: one for each candidate.
        settings: how to draw.
        first: number of the first candidate, where earlier ones of the prompt were drawn before (`temperature_carry`).

    Raises:
        ConfigError: the numbers of prompts and generators differ, or there are none.
    """

    def __init__(
        self,
        showo: Showo,
        prompts: Tensor,
        unconditional: Tensor,
        generators: Sequence[torch.Generator],
        settings: SamplingSettings,
        first: int = 0,
    ) -> None:
        if not len(prompts) or len(prompts) != len(generators):
            raise ConfigError(
                f"{len(generators)} generators for {len(prompts)} prompts; one each is needed, and one at least"
            )
        self._showo, self._settings, self._vocabulary = showo, settings, showo.vocabulary
        self._generators = list(generators)
        self._prefix = CachedPrefix.of_candidates(showo, prompts, unconditional if self._branches == 2 else None)
        self._candidates = tuple(range(first, first + len(prompts)))
        self._annealed = self._which_are_annealed(prompts, first)
        shape = len(prompts), showo.config.num_vq_tokens
        self._codes = torch.zeros(shape, dtype=torch.int64, device=showo.device)
        self._masked = torch.ones(shape, dtype=torch.bool, device=showo.device)
        self._temperatures = settings.temperatures()
        self.trace: list[Step] = []

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or no candidate is left."""
        return len(self.trace) == self._settings.num_steps or not self._candidates

    @property
    def candidates(self) -> tuple[int, ...]:
        """The candidates that are left, by the number they had at the start."""
        return self._candidates

    @property
    def codes(self) -> Tensor:
        """(rows, tokens) int64, the image codes as the last step drew them, every token filled in."""
        if not self.trace:
            raise RuntimeError("no step was taken yet, so there are no codes")
        return self._codes

    @property
    def image_ids(self) -> Tensor:
        """(rows, tokens) int64 ids that the next step reads: codes + image_offset, or the mask."""
        return (self._codes + self._vocabulary.image_offset).masked_fill(self._masked, self._vocabulary.mask)

    @torch.no_grad()
    def step(self) -> Step:
        """Take one step with all candidates that are left.

        Raises:
            RuntimeError: the run is finished, or an earlier step broke off.
            ArithmeticError: the model's logits are not finite; nothing of it must be scored.
        """
        if self.finished:
            raise RuntimeError("the sampling is finished; there is no further step")
        index = len(self.trace)
        probabilities = self._guided_logits().softmax(-1)
        uniform, chance = self._uniform_numbers()
        codes = torch.where(self._masked, categorical(probabilities, uniform), self._codes)
        chosen = probabilities.gather(2, codes[..., None])[..., 0]
        temperature = self._temperatures[index] * self._annealed
        masked = lowest_confidence(chosen, ~self._masked, self._number_to_mask(index), temperature, chance)
        self._codes, self._masked = codes, masked
        self.trace.append(Step(index, self._candidates, codes, masked, chosen))
        return self.trace[-1]

    def finish(self) -> Tensor:
        """Take all steps that are left and return `codes`."""
        while not self.finished:
            self.step()
        return self.codes

    def keep(self, rows: Sequence[int], generators: Sequence[torch.Generator] | None = None) -> None:
        """Go on with some rows only; the others cost nothing any more. What is kept becomes what it would have become.

        Args:
            rows: indices into the candidates that are left, in the order wanted. None at all ends the run.
            generators: new sources of chance, one a row; with them a row may be taken several times, to branch off.

        Raises:
            ConfigError: there is no such row, one is repeated without new generators, or these are not one a row.
        """
        wrong = [row for row in rows if not 0 <= row < len(self._candidates)]
        if wrong:
            raise ConfigError(f"row {wrong[0]} cannot be kept; allowed: 0 to {len(self._candidates) - 1}")
        if generators is None and len(set(rows)) < len(rows):
            raise ConfigError(f"rows {list(rows)} repeat one; allowed: each once, or new generators for all")
        if generators is not None and len(generators) != len(rows):
            raise ConfigError(f"{len(generators)} generators for {len(rows)} rows; one each is needed")
        chosen = torch.tensor(rows, dtype=torch.int64, device=self._codes.device)
        self._prefix.select(torch.cat([chosen + branch * len(self._candidates) for branch in range(self._branches)]))
        self._generators = [self._generators[row] for row in rows] if generators is None else list(generators)
        self._candidates = tuple(self._candidates[row] for row in rows)
        self._codes, self._masked, self._annealed = (
            tensor[chosen] for tensor in (self._codes, self._masked, self._annealed)
        )

    @property
    def _branches(self) -> int:
        """With guidance, each candidate is drawn with its prompt and without."""
        return 2 if self._settings.guidance_scale > 0 else 1

    def _guided_logits(self) -> Tensor:
        segments = image_segments(self.image_ids, self._vocabulary)
        scale = self._settings.guidance_scale
        if self._branches == 2:
            conditional, unconditional = self._prefix.image_logits(torch.cat([segments, segments])).chunk(2)
            logits = (1 + scale) * conditional - scale * unconditional
        else:
            logits = self._prefix.image_logits(segments)
        if not bool(logits.sum(-1).isfinite().all()):
            raise ArithmeticError("Show-o's logits are not finite: the precision overflows, or the weights are broken")
        return logits

    def _uniform_numbers(self) -> tuple[Tensor, Tensor]:
        """Twice (rows, tokens), float64 and float32, in [0, 1)."""
        tokens = self._codes.shape[1]

        def drawn(dtype: torch.dtype) -> Tensor:
            own = [torch.rand(tokens, generator=one, device=one.device, dtype=dtype) for one in self._generators]
            return torch.stack(own).to(self._codes.device)

        return drawn(torch.float64), drawn(torch.float32)

    def _number_to_mask(self, index: int) -> Tensor:
        """As the schedule says, but at least one, and at least one of the unknown tokens becomes known."""
        tokens = self._codes.shape[1]
        scheduled = num_masked(mask_schedule(self._settings.schedule), index, self._settings.num_steps, tokens)
        return (self._masked.sum(1) - 1).clamp(max=scheduled).clamp(min=1)

    def _which_are_annealed(self, prompts: Tensor, first: int) -> Tensor:
        """(candidates,) of 1 where the temperature follows its course, of 0 where it is 0 throughout."""
        if not self._settings.temperature_carry:
            return torch.ones(len(prompts), device=self._showo.device)
        seen: Counter[tuple[int, ...]] = Counter()
        annealed = []
        for prompt in map(tuple, prompts.tolist()):
            annealed.append(float(first == 0 and not seen[prompt]))
            seen[prompt] += 1
        return torch.tensor(annealed, device=self._showo.device)


def categorical(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Draw by the inverse of the distribution function: one number a draw, where `torch.multinomial` takes one a class.

    Args:
        probabilities: (..., classes), at least one above 0.
        uniform: (...) float64 in [0, 1).

    Returns:
        (...) int64, never a class of probability 0.
    """
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    reached = uniform[..., None] * cumulative[..., -1:]
    return torch.searchsorted(cumulative, reached, right=True)[..., 0]
