"""Several rewards: weighted sums, each normalised by itself, failures by their policy; from scores to advantages."""

import numpy as np
import pytest
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from assay.rewards import RewardBatch, RewardConfig
from trainer.advantages import (
    EPSILON,
    AdvantagesConfig,
    decoupled_advantages,
    epoch_advantages,
    group_advantages,
)
from trainer.reward_table import RewardTable

GROUPS = np.array([0, 0, 1, 1])


def test_decoupled_advantages_by_hand() -> None:
    """Group 0 differs in the first reward alone, group 1 in the second, which is a hundred times smaller."""
    rewards = np.array([[1.0, 0.0], [0.0, 0.0], [0.5, 0.01], [0.5, 0.0]])
    found = decoupled_advantages(rewards, [1.0, 3.0], GROUPS, global_std=False)
    each = np.array([0.5 / (0.5 + EPSILON)] * 2 + [3 * 0.005 / (0.005 + EPSILON)] * 2) * np.array([1, -1, 1, -1])
    np.testing.assert_allclose(found, each / (each.std() + EPSILON), rtol=1e-12)


@given(
    rewards=arrays(np.float64, (12, 2), elements=st.integers(0, 8).map(float)),
    scale=st.floats(50, 5000),
)
def test_a_rewards_unit_does_not_matter_where_each_is_normalised(rewards: np.ndarray, scale: float) -> None:
    groups = np.repeat(np.arange(3), 4)
    rewards = 50 * rewards  # far above EPSILON, which is what a unit may change
    plain = decoupled_advantages(rewards, [1.0, 1.0], groups, global_std=True)
    scaled = decoupled_advantages(rewards * [1.0, scale], [1.0, 1.0], groups, global_std=True)
    np.testing.assert_allclose(scaled, plain, atol=1e-4)


def test_a_group_with_a_failed_reward_counts_nowhere() -> None:
    rewards = np.array([[1.0, 0.0], [0.0, 1.0], [np.nan, 5.0], [2.0, 9.0]])
    valid = np.array([True, True, False, True])
    found = epoch_advantages(rewards, GROUPS, valid, global_std=True, weights=[2.0, 1.0])
    assert found[2:].tolist() == [0, 0]
    np.testing.assert_allclose(found[:2], decoupled_advantages(rewards[:2], [2.0, 1.0], GROUPS[:2], global_std=True))


def _configs(**changes: object) -> list[RewardConfig]:
    first = {"name": "a", "scorer": "a", "targets": ["x"], "weight": 1.0}
    second = {"name": "b", "scorer": "b", "targets": ["x"], "weight": 0.5, **changes}
    return [RewardConfig.model_validate(config) for config in (first, second)]


def _table(second: list[float], totals: list[float], fills: int = 0) -> RewardTable:
    first = np.array([1.0, 0.0, 0.5, 0.5])
    batch = RewardBatch(
        totals=np.array(totals),
        valid=np.isfinite(totals),
        components={"a": first, "b": np.array(second), "b/part": np.zeros(4)},
        fills=fills,
    )
    return RewardTable.gather(Accelerator(cpu=True), GROUPS.tolist(), [batch], ["a", "b"])


def test_a_filled_score_is_normalised_as_the_number_it_was_filled_with() -> None:
    """The second sample's second reward failed, and counts 0.25."""
    rewards = _configs(on_failure="fill", fill_value=0.25)
    table = _table([1.0, float("nan"), 0.0, 1.0], [1.5, 0.125, 0.5, 1.0], fills=1)
    found = table.own_advantages(AdvantagesConfig(normalise="each", std="group"), rewards)
    filled = np.array([[1.0, 1.0], [0.0, 0.25], [0.5, 0.0], [0.5, 1.0]])
    np.testing.assert_allclose(found, decoupled_advantages(filled, [1.0, 0.5], GROUPS, global_std=False))
    metrics = table.metrics(AdvantagesConfig(), rewards)
    assert metrics["filled"] == 1
    assert metrics["reward/b"] == pytest.approx(2 / 3)  # of what was scored


def test_the_weighted_sum_is_what_the_services_client_has_added_up() -> None:
    totals = [1.5, 0.0, 0.5, 1.0]
    found = _table([1.0, 0.0, 0.0, 1.0], totals).own_advantages(AdvantagesConfig(), _configs())
    spread = np.std(totals) + EPSILON
    np.testing.assert_allclose(found, np.array([0.75, -0.75, -0.25, 0.25]) / spread)


def test_tables_of_optimizer_steps_make_up_the_metrics_of_an_epoch() -> None:
    tables = [_table([1.0, 0.0, 0.0, 1.0], [1.5, 0.0, 0.5, 1.0]), _table([0.0] * 4, [1.0, 0.0, float("nan"), 0.5])]
    metrics = RewardTable.concatenate(tables).metrics(AdvantagesConfig(), _configs())
    assert metrics["reward_mean"] == pytest.approx((1.5 + 0 + 0.5 + 1 + 1 + 0 + 0.5) / 7)
    assert metrics["unscored"] == 1
    assert metrics["groups_dropped"] == 1


def test_a_group_whose_rewards_differ_but_cancel_counts_as_one_without_signal() -> None:
    """Totals tie in both groups; taken one by one, the rewards of the second differ."""
    table = _table([0.0, 2.0, 0.0, 1.0], [1.0, 1.0, 0.75, 0.75])
    by_total = table.metrics(AdvantagesConfig(), _configs())
    assert by_total["zero_std_ratio"] == 1
    each = AdvantagesConfig(normalise="each", std="group")
    assert table.metrics(each, _configs())["zero_std_ratio"] == 0


@given(first=arrays(np.float64, (12,), elements=st.floats(0, 1)), weight=st.floats(0.1, 10))
def test_rewards_that_cancel_out_teach_nothing(first: np.ndarray, weight: float) -> None:
    """What rounding leaves of a + (1 - a) must not become an advantage, nor a pair."""
    groups = np.repeat(np.arange(3), 4)
    opposite = np.stack([first, 1 - first], 1)
    for global_std in (True, False):
        found = decoupled_advantages(opposite, [weight, weight], groups, global_std=global_std)
        assert not found.any()
    assert not group_advantages(weight * first + weight * (1 - first), groups, global_std=True).any()


def test_strict_rewards_tell_a_total_of_one_from_all_others() -> None:
    """Group 0 has 1 and 0.5, group 1 has 0.75 and 0: strictly 1 and 0, and a tie of zeros, which teaches nothing."""
    table = RewardTable(np.array([1.0, 0.5, 0.75, 0.0]), GROUPS, {}, fills=0, own=slice(0, 4))
    config = AdvantagesConfig(std="group", strict_reward=True)
    expected = 0.5 / (0.5 + EPSILON)
    np.testing.assert_allclose(table.own_advantages(config, []), [expected, -expected, 0, 0])
    metrics = table.metrics(config, [])
    assert (metrics["zero_std_ratio"], metrics["strict"], metrics["reward_std_mean"]) == (0.5, 0.25, 0.25)
    assert metrics["reward_mean"] == 0.5625  # what is shown stays the reward itself
