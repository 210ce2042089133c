"""A slow or failing reward service is seen in the trainer's own log, and its work in the trainer's own trace."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from accelerate import Accelerator
from redness import Redness
from spans import keep_spans, printed_spans
from whole_runs import finish_run, write_config

from assay.outcomes import Failed
from assay.rewards import RewardBatch, RewardConfig, RewardSet
from assay.testing import serve_in_background
from trainer.reward_calls import RewardCalls


def test_each_reward_s_latency_and_failures_are_its_own_and_begin_anew() -> None:
    calls, alone = RewardCalls(), Accelerator(cpu=True)
    lost, bad = Failed("INTERNAL", "INTERNAL_ERROR", ""), Failed("INVALID_ARGUMENT", "TASK_MISSING", "")
    failures = [(0, "a", lost), (1, "a", bad), (2, "a", bad), (0, "b", bad)]
    for number in range(21):
        seconds = {"a": float(number), "b": 0.5}
        calls.add(RewardBatch(np.zeros(1), np.ones(1, bool), {}, failures if number == 0 else [], seconds=seconds))
    assert calls.metrics(alone) == {
        "reward_latency/a/mean_s": 10,
        "reward_latency/a/p95_s": 19,
        "reward_latency/a/max_s": 20,
        "reward_latency/b/mean_s": 0.5,
        "reward_latency/b/p95_s": 0.5,
        "reward_latency/b/max_s": 0.5,
        "reward_failures/a/INTERNAL": 1,
        "reward_failures/a/INVALID_ARGUMENT": 2,
        "reward_failures/b/INVALID_ARGUMENT": 1,
    }
    assert calls.metrics(alone) == {}


def test_a_reward_s_time_is_that_of_its_own_service_not_of_the_slowest() -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    with serve_in_background([Redness()]) as quick, serve_in_background([Redness(delay_s=0.5)]) as slow:
        servers = {"quick": quick.target, "slow": slow.target}
        rewards = [RewardConfig(name=name, scorer="redness", targets=(at,)) for name, at in servers.items()]
        task = {"tag": "counting", "include": [{"class": "cup", "count": 1}]}
        with RewardSet(rewards) as asked:
            asked.wait_until_ready(20)
            future = asked.submit([picture], [""], [task])
            time.sleep(0.6)  # whoever waits late must not make a service look slow
            seconds = future.result().seconds
    assert seconds["quick"] < seconds["slow"]
    assert seconds["slow"] >= 0.5


def test_a_run_logs_latency_failures_and_fingerprints_and_its_epochs_hold_the_services_spans(
    tmp_path: Path, tiny_model: Path
) -> None:
    served = keep_spans()
    with serve_in_background([Redness(fail_every=16, delay_s=0.05)]) as running:
        config = write_config(tmp_path, tiny_model, running.target, run__epochs=1, evaluation=None)
        values = yaml.safe_load(config.read_text())
        values["rewards"][0]["on_failure"] = "drop_group"
        config.write_text(yaml.safe_dump(values))
        output = finish_run(config, environment={"OTEL_TRACES_EXPORTER": "console"})
    [line] = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert line["reward_failures/red/INVALID_ARGUMENT"] == line["unscored"] == 1
    assert 0.05 <= line["reward_latency/red/mean_s"] <= line["reward_latency/red/max_s"] < 60
    assert line["fingerprints"] == {"red": "1" * 16}
    assert f"reward red: fingerprint {'1' * 16}" in output

    own = {span["context"]["span_id"]: span for span in printed_spans(output)}
    [epoch] = [span for span in own.values() if span["name"] == "epoch"]
    assert epoch["attributes"] == {"assay.epoch": 1}
    assert epoch["resource"]["attributes"]["service.name"] == "assay-trainer"
    spans = served.get_finished_spans()
    scored = [span for span in spans if span.name.endswith("/Score")]
    assert len(scored) == 4  # micro-batches
    for call in scored:
        assert call.parent is not None
        sampling = own[f"0x{call.parent.span_id:016x}"]
        assert (sampling["name"], sampling["parent_id"]) == ("sample", epoch["context"]["span_id"])
    models = [span for span in spans if span.name == "model"]
    assert {f"0x{span.context.trace_id:032x}" for span in models} == {epoch["context"]["trace_id"]}
    names = {span["name"] for span in own.values() if span["parent_id"] == epoch["context"]["span_id"]}
    assert names == {"sample", "reward_wait", "update"}


@pytest.mark.slow
def test_the_log_is_that_of_all_processes(tmp_path: Path, tiny_model: Path) -> None:
    with serve_in_background([Redness(fail_every=4)]) as running:
        config = write_config(tmp_path, tiny_model, running.target, run__epochs=1, evaluation=None)
        values = yaml.safe_load(config.read_text())
        values["rewards"][0] |= {"on_failure": "fill", "fill_value": 0.0}
        config.write_text(yaml.safe_dump(values))
        finish_run(config, processes=2)
    [line] = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert line["reward_failures/red/INVALID_ARGUMENT"] == line["filled"] == 4
