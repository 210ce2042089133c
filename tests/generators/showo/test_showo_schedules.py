"""Numbers of masked tokens and temperatures at each step, as the published sampler has them."""

import pytest
import torch

from assay.errors import ConfigError
from generators.showo.sampling_settings import SamplingSettings
from generators.showo.schedules import mask_schedule, num_masked

MASKED = {
    (256, 18): "255 252 247 240 232 221 209 196 181 164 146 127 108 87 66 44 22 1",
    (256, 12): "253 247 236 221 203 181 155 127 97 66 33 1",
    (256, 16): "254 251 244 236 225 212 197 181 162 142 120 97 74 49 25 1",
    (1024, 18): "1020 1008 989 962 928 886 838 784 724 658 587 511 432 350 265 177 89 1",
}


def counts(tokens: int, steps: int) -> list[int]:
    """With the sampler's lower limit of one."""
    return [max(1, num_masked(mask_schedule("cosine"), step, steps, tokens)) for step in range(steps)]


@pytest.mark.parametrize(("tokens", "steps"), list(MASKED))
def test_masked_tokens(tokens: int, steps: int) -> None:
    assert counts(tokens, steps) == [int(number) for number in MASKED[tokens, steps].split()]


def test_masked_tokens_of_fifty_steps() -> None:
    numbers = counts(1024, 50)
    assert numbers[:5] == [1023, 1021, 1019, 1015, 1011]
    assert numbers[-6:] == [160, 128, 96, 64, 32, 1]


def test_the_last_step_asks_for_less_than_nothing() -> None:
    """As the published float32 has it; the sampler then masks one."""
    assert num_masked(mask_schedule("cosine"), 17, 18, 256) == -1


def test_temperatures() -> None:
    wanted = [
        0.944444, 0.839506, 0.699588, 0.544124, 0.392979, 0.261986, 0.160102, 0.0889458, 0.0444729,
        0.0197657, 0.00768667, 0.00256222, 0.000711729, 0.000158162, 2.636e-5, 2.929e-6, 1.627e-7, 0,
    ]  # fmt: skip
    assert SamplingSettings(num_steps=18).temperatures() == pytest.approx(wanted, rel=1e-3)
    assert SamplingSettings(num_steps=4, anneal="linear", temperature=0.5).temperatures() == [0.375, 0.25, 0.125, 0]


@pytest.mark.parametrize("name", ["cosine", "linear", "sigmoid", "pow2", "pow0.5"])
def test_schedules_fall_from_all_to_nothing(name: str) -> None:
    shares = mask_schedule(name)(torch.linspace(0, 1, 21))
    assert shares[0].item() == pytest.approx(1, abs=1e-6)
    assert shares[-1].item() == pytest.approx(0, abs=2e-6)
    assert (shares.diff() < 0).all()


def test_schedules_at_a_quarter() -> None:
    quarter = torch.tensor(0.25)
    found = {name: mask_schedule(name)(quarter).item() for name in ("cosine", "linear", "pow2", "pow0.5", "sigmoid")}
    assert found == pytest.approx(
        {"cosine": 0.923880, "linear": 0.75, "pow2": 0.9375, "pow0.5": 0.5, "sigmoid": 0.850854}, abs=1e-5
    )


@pytest.mark.parametrize("name", ["cosin", "pow", "power", "pow0", "pow-1", "pownan"])
def test_unknown_schedules_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"schedule is '{name}'; allowed: cosine, linear, sigmoid, and powK"):
        mask_schedule(name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 0}, "num_steps is 0; allowed: at least 1"),
        ({"guidance_scale": -1.0}, "guidance_scale is -1.0; allowed: at least 0"),
        ({"temperature": 1.5}, "temperature is 1.5; allowed: 0 to 1"),
        ({"anneal": "quadratic"}, "anneal is 'quadratic'; allowed: cumulative, linear"),
        ({"schedule": "none"}, "schedule is 'none'; allowed: cosine"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SamplingSettings(**settings)
