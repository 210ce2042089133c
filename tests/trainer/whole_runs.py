"""Whole training runs in processes of their own, cut down to seconds."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def write_config(folder: Path, model: Path, target: str, **changes: object) -> Path:
    """The miniature's configuration, made small; `section__field=value` changes it further."""
    config = yaml.safe_load((ROOT / "configs/train/miniature_counting.yaml").read_text())
    config["model"] |= {"path": str(model), "lora_rank": 4, "lora_alpha": 8}
    config["sampling"] |= {
        "num_steps": 4,
        "guidance_scale": 1.5,
        "group_size": 4,
        "groups_per_epoch": 4,
        "micro_batch_size": 4,
    }
    config["algorithm"] |= {"optimizer_steps_per_epoch": 2}
    config["evaluation"] |= {"num_steps": 4, "num_images": 8, "gallery_prompts": 4, "accuracy": "red/strict_correct"}
    config["rewards"] = [{"name": "red", "scorer": "redness", "targets": [target]}]
    config["run"] |= {"output": str(folder / "run"), "epochs": 3, "save_every_epochs": 1, "threads": 1}
    config["run"] |= {"service_wait_s": 5}
    for name, value in changes.items():
        section, _, field = name.partition("__")
        if field:
            config[section][field] = value
        else:
            config[section] = value
    path = folder / "config.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config))
    return path


FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
TRAIN = ("-m", "assay.cli", "train")


def start_run(
    config: Path,
    processes: int = 1,
    environment: Mapping[str, str] | None = None,
    program: Sequence[str] = TRAIN,
) -> subprocess.Popen[str]:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launch if processes > 1 else []), *program, str(config)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **(environment or {})}
    return subprocess.Popen(
        command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish_run(
    config: Path,
    processes: int = 1,
    environment: Mapping[str, str] | None = None,
    program: Sequence[str] = TRAIN,
) -> str:
    process = start_run(config, processes, environment, program)
    try:
        output, _ = process.communicate(timeout=840)
    finally:
        process.terminate()  # of a run that hangs; torch.distributed.run takes its processes with it
    assert process.returncode == 0, output
    return output


def logged_metrics(folder: Path) -> list[dict]:
    """What was logged of each epoch, less what is measured in seconds."""
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.endswith("_s") and k != "minutes"} for line in lines]
