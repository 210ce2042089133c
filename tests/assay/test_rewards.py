"""A failed score becomes a number only by a named policy, and the scorer cannot change unnoticed."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from assay_doubles import MeanScorer, grey, greys
from pydantic import ValidationError

from assay.errors import (
    ConfigError,
    FingerprintMismatchError,
    ScorerNotFoundError,
    ScoringFailedError,
    ServiceUnavailableError,
)
from assay.rewards import RewardConfig, RewardSet
from assay.testing import BackgroundServer, serve_in_background

PROMPTS = ["", "refuse", "", "poison"]


@pytest.fixture
def server(scorer: MeanScorer) -> Iterator[BackgroundServer]:
    with serve_in_background([scorer, MeanScorer("other", "f2")]) as server:
        yield server


def reward(server: BackgroundServer, **fields: Any) -> RewardConfig:
    return RewardConfig.model_validate({"name": "r", "scorer": "mean", "targets": [server.target], **fields})


def test_totals_are_weighted_and_components_kept(server: BackgroundServer, scorer: MeanScorer) -> None:
    configs = [
        reward(server, weight=2.0),
        reward(server, name="size", component="pixels", weight=0.5),
        reward(server, name="second", scorer="other", weight=-1.0),
    ]
    with RewardSet(configs) as rewards:
        batch = rewards.score(greys(3), [""] * 3, [None] * 3)
    means = np.arange(3) / 255
    np.testing.assert_allclose(batch.totals, 2 * means + 0.5 * 256 - means)
    assert batch.valid.all()
    assert batch.failures == []
    np.testing.assert_allclose(batch.components["r"], means)
    np.testing.assert_allclose(batch.components["size"], 256.0)
    np.testing.assert_allclose(batch.components["r/pixels"], 256.0)
    assert set(batch.components) == {
        *("r", "r/mean", "r/pixels", "size", "size/mean", "size/pixels", "second", "second/mean", "second/pixels")
    }
    assert len(scorer.scored_ids) == 3  # two rewards of one scorer are one call


def test_by_default_a_failed_score_raises(server: BackgroundServer) -> None:
    with (
        RewardSet([reward(server)]) as rewards,
        pytest.raises(ScoringFailedError, match=r"image 1: .* asked to refuse"),
    ):
        rewards.score(greys(4), PROMPTS, [None] * 4)


def test_drop_group_marks_and_never_gives_a_number(server: BackgroundServer, caplog: pytest.LogCaptureFixture) -> None:
    configs = [
        reward(server, on_failure="drop_group"),
        reward(server, name="s", scorer="other", on_failure="drop_group"),
    ]
    with RewardSet(configs) as rewards:
        batch = rewards.score(greys(4), PROMPTS, [None] * 4)
        assert rewards.failure_counts["r", "drop_group", "REFUSED"] == 1
        assert rewards.failure_counts["r", "drop_group", "SCORER_RAISED"] == 1
    np.testing.assert_array_equal(batch.valid, [True, False, True, False])
    assert np.isnan(batch.totals[[1, 3]]).all()
    np.testing.assert_allclose(batch.totals[[0, 2]], [0.0, 4 / 255])
    assert np.isnan(batch.components["r"][[1, 3]]).all()
    assert batch.fills == 0
    assert [(index, name) for index, name, _ in batch.failures] == [(1, "r"), (3, "r"), (1, "s"), (3, "s")]
    assert caplog.text.count("its group is dropped") == 4


def test_fill_is_counted_and_logged(server: BackgroundServer, caplog: pytest.LogCaptureFixture) -> None:
    with RewardSet([reward(server, on_failure="fill", fill_value=-1.0, weight=3.0)]) as rewards:
        for _ in range(2):
            batch = rewards.score(greys(4), PROMPTS, [None] * 4)
        assert sum(rewards.failure_counts.values()) == 4
    assert batch.fills == 2
    assert batch.valid.all()
    np.testing.assert_allclose(batch.totals, [0.0, -3.0, 6 / 255, -3.0])
    assert np.isnan(batch.components["r"][[1, 3]]).all()
    assert caplog.text.count("filled with -1.0") == 4


@pytest.mark.parametrize("policy", [{}, {"on_failure": "drop_group"}, {"on_failure": "fill", "fill_value": 0.0}])
def test_a_dead_service_raises_under_every_policy(policy: dict[str, Any]) -> None:
    with serve_in_background([MeanScorer()]) as server:
        rewards = RewardSet([reward(server, **policy)], deadline_s=0.5)
        rewards.wait_until_ready(5)
    with rewards, pytest.raises(ServiceUnavailableError):
        rewards.score([grey(0)], [""], [None])


def test_one_failing_reward_fails_the_whole_and_frees_the_rest(server: BackgroundServer) -> None:
    configs = [reward(server), reward(server, name="dead", targets=["127.0.0.1:1"])]
    with RewardSet(configs, deadline_s=0.3) as rewards, pytest.raises(ServiceUnavailableError, match=r"127\.0\.0\.1:1"):
        rewards.wait_until_ready(0.3)


def test_the_first_fingerprint_is_pinned() -> None:
    scorer = MeanScorer(fingerprint="old")
    with serve_in_background([scorer]) as server:
        port = int(server.target.rsplit(":", 1)[1])
        rewards = RewardSet([reward(server)], deadline_s=10)
        rewards.score([grey(0)], [""], [None])
        assert rewards.fingerprints == {"r": "old"}
    with (
        serve_in_background([MeanScorer(fingerprint="new")], grpc_port=port),
        rewards,
        pytest.raises(FingerprintMismatchError, match="has fingerprint new, expected was old"),
    ):
        rewards.score([grey(0)], [""], [None])


def test_a_configured_fingerprint_is_held_to(server: BackgroundServer) -> None:
    with RewardSet([reward(server, fingerprint="f1")]) as rewards:
        rewards.wait_until_ready(5)
        assert rewards.fingerprints == {"r": "f1"}
    with RewardSet([reward(server, fingerprint="f9")]) as rewards, pytest.raises(FingerprintMismatchError):
        rewards.wait_until_ready(5)


def test_an_unknown_scorer_is_named_before_training_starts(server: BackgroundServer) -> None:
    with RewardSet([reward(server, scorer="nope")]) as rewards, pytest.raises(ScorerNotFoundError, match="mean, other"):
        rewards.wait_until_ready(5)


def test_an_unknown_component_is_a_failure_that_names_the_known(server: BackgroundServer) -> None:
    with (
        RewardSet([reward(server, component="nope")]) as rewards,
        pytest.raises(ScoringFailedError, match="gave no component 'nope'; it gave: mean, pixels"),
    ):
        rewards.score([grey(0)], [""], [None])


def test_submit_returns_before_the_scores_are_there(server: BackgroundServer) -> None:
    with RewardSet([reward(server)]) as rewards:
        rewards.wait_until_ready(5)
        futures = [rewards.submit([grey(value)], ["sleep 0.05"], [None]) for value in range(4)]
        assert not futures[-1].done()
        assert [round(future.result(10).totals[0] * 255) for future in futures] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "fields",
    [
        {"on_failure": "fill"},
        {"fill_value": 0.0},
        {"on_failure": "zero"},
        {"weight": float("nan")},
        {"targets": []},
        {"wieght": 1.0},
        {"on_failure": "fill", "fill_value": float("inf")},
    ],
)
def test_wrong_rewards_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RewardConfig.model_validate({"name": "r", "scorer": "s", "targets": ["t"], **fields})


def test_names_must_differ() -> None:
    config = RewardConfig(name="r", scorer="s", targets=("localhost:1",))
    with pytest.raises(ConfigError, match="a name of its own"):
        RewardSet([config, config])
    with pytest.raises(ConfigError, match="at least one"):
        RewardSet([])


def test_rewards_of_one_service_agree_on_its_copies(server: BackgroundServer) -> None:
    with RewardSet([reward(server, hedge_budget=0.1), reward(server, name="s", hedge_budget=0.1)]) as rewards:
        rewards.score(greys(3), [""] * 3, [None] * 3)
        assert rewards.statistics[server.target].calls == 1
        assert rewards.statistics[server.target].hedged == 0
    with pytest.raises(ConfigError, match=r"'s': hedge_budget = 0.2, but 0.1 for another"):
        RewardSet([reward(server, hedge_budget=0.1), reward(server, name="s", hedge_budget=0.2)])
