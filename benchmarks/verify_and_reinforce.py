"""What verifiers and preferences do for a generator: the published table (arXiv 2501.13926) on the miniature's Show-o.

    python benchmarks/verify_and_reinforce.py --output runs/verify_and_reinforce

From a generator and a zero-shot judge (`--model`, `--zero-shot`), by the commands that users type:

    assay data verifier     pictures, labelled by the GenEval service
    assay train orm, parm   verifiers fine-tuned on them
    assay train dpo         on pairs of them; on those and pairs of what came of it; and that guided by the PARM
    assay best-of-n         one picture, or the best of N as each verifier chooses, of the same candidates
    assay evaluate geneval  what the GenEval service says of the chosen ones

Rows are compared with the first one prompt by prompt; intervals are 95 % of a bootstrap over prompts. One row chooses
by GenEval itself: no verifier can do better with these candidates. The small world has few prompts: verifiers and
preferences are learnt from other pictures of the same ones. What is done is kept: every command goes on where it was
interrupted.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipelines.evaluate.results import ImageResult, read_results
from pipelines.evaluate.statistics import Estimate, compare_prompts
from trainer.vlm.agreement import agreement, area_under_curve

ROOT = Path(__file__).parents[1]
DATA = "configs/pipelines/miniature_verifier_data.yaml"
PROMPTS = "configs/pipelines/prompts/miniature_geneval.jsonl"


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Args:
        title: in the table.
        reward_model: who chooses; `geneval` stands for the labels themselves.
        dpo_model: who draws; None is the generator as it is.
    """

    title: str
    reward_model: str = "none"
    dpo_model: str | None = None


ROWS = [
    Row("baseline"),
    Row("zero-shot ORM", "orm_zs"),
    Row("fine-tuned ORM", "orm_ft"),
    Row("PARM", "parm"),
    Row("GenEval chooses (upper bound)", "geneval"),
    Row("DPO", dpo_model="dpo"),
    Row("iterative DPO", dpo_model="dpo_iter"),
    Row("iterative DPO, guided by PARM", dpo_model="dpo_iter_parm_guide"),
    Row("iterative DPO + fine-tuned ORM", "orm_ft", "dpo_iter"),
    Row("iterative DPO + PARM", "parm", "dpo_iter"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/verify_and_reinforce"))
    parser.add_argument("--model", default="miniature/weights/showo", help="Show-o's folder")
    parser.add_argument("--zero-shot", default="miniature/weights/verifier_zero_shot", help="the judge's folder")
    parser.add_argument("--verifier", help="a fine-tuned one's folder; trained here, an ORM and a PARM, if not given")
    parser.add_argument("--candidates", type=int, default=20, help="N of best of N")
    parser.add_argument("--images", type=int, default=2, help="for each prompt, where a verifier chooses")
    parser.add_argument("--unchosen", type=int, default=10, help="images for each prompt where nobody chooses")
    parser.add_argument("--potential", type=float, default=0.05, help="the PARM gives up a path below it")
    parser.add_argument("--data-candidates", type=int, default=40, help="pictures of each prompt to learn from")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="to draw in")
    parser.add_argument("--report", action="store_true", help="only tabulate what there is")
    args = parser.parse_args()
    args.output = args.output.absolute()
    args.output.mkdir(parents=True, exist_ok=True)
    if not args.report:
        Experiment(args).run()
    report(args.output)


class Experiment:
    """Everything up to the table.

    Args:
        args: of the command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._root: Path = args.output

    def run(self) -> None:
        # official: its value is whether a picture is right, by which one row chooses
        with self._serving("geneval", settings=["scorer.score=official"]) as geneval:
            self._make_data("data", geneval, ["steps=[2,4,6,8,9,10,11,12]"])
            verifiers = {name: self._args.verifier or self._fine_tune(name) for name in ("orm", "parm")}
            with ExitStack() as services:
                targets = {"geneval": geneval}
                for name, model, scorers in (
                    ("orm_zs", self._args.zero_shot, "[orm]"),
                    ("orm_ft", verifiers["orm"], "[orm]"),
                    ("parm", verifiers["parm"], "[orm,parm-clarity,parm-potential]"),
                ):
                    flags = [f"scorer.backend.model={model}", f"scorer.scorers={scorers}"]
                    targets[name] = services.enter_context(self._serving("verifier", name, flags))
                for row in (row for row in ROWS if row.dpo_model is None):
                    self._draw(row, targets)
                self._reinforce_thrice(targets)
                for row in (row for row in ROWS if row.dpo_model is not None):
                    self._draw(row, targets)

    def _fine_tune(self, name: str) -> str:
        data = f"{self._root}/data/{name}"
        files = [f"data.0.path={data}.json", f"held_out.0.path={data}_held_out.json"]
        self._train(name, [name, f"model={self._args.zero_shot}", *files])
        return f"{self._root / name}/model"

    def _reinforce_thrice(self, targets: dict[str, str]) -> None:
        """On pairs of the first pictures; then on those and pairs of what came of it; and those weighed by the PARM."""
        geneval = targets["geneval"]
        self._reinforce("dpo", f"{self._root}/data/pairs.jsonl", geneval)
        self._make_data("data_iter", geneval, ["steps=[]", "further_prompts=0", f"lora={self._root}/dpo", "seed=5678"])
        both = self._pairs_of("data", "data_iter")
        self._reinforce("dpo_iter", both, geneval)
        guide = [
            "algorithm.guidance.use=weigh",
            f"rewards=[{{name: parm, scorer: orm, targets: ['{targets['parm']}']}}]",
            f"evaluation.rewards=[{{name: counting, scorer: counting, targets: ['{geneval}']}}]",
        ]
        self._reinforce("dpo_iter_parm_guide", both, geneval, guide)

    def _pairs_of(self, *rounds: str) -> str:
        """A file of the pairs of several folders' files; a pair's pictures are relative to the file."""
        rows = [
            {**row, "chosen": f"{name}/{row['chosen']}", "rejected": f"{name}/{row['rejected']}"}
            for name in rounds
            for row in map(json.loads, (self._root / name / "pairs.jsonl").read_text().splitlines())
        ]
        file = self._root / "pairs.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(file)

    def _make_data(self, name: str, geneval: str, settings: Sequence[str]) -> None:
        self._command(
            f"{name}.log",
            [
                *("data", "verifier", "--config", DATA, "--output", f"{self._root / name}", "--target", geneval),
                *("--model", self._args.model, f"num_candidates={self._args.data_candidates}"),
                f"dtype={self._args.dtype}",
                *settings,
            ],
        )

    def _reinforce(self, name: str, pairs: str, geneval: str, settings: Sequence[str] = ()) -> None:
        self._train(
            name,
            [
                "dpo",
                f"model.path={self._args.model}",
                f"algorithm.data={pairs}",
                "algorithm.sft_weight=1.0",  # else the better image loses likelihood, too
                "run.epochs=15",
                "run.trackers=[]",
            ]
            + [f"run.threads={self._args.threads}", "evaluation.every_epochs=0", "evaluation.num_images=64"]
            + ([] if any(one.startswith("rewards=") for one in settings) else [f"rewards.0.targets=[{geneval}]"])
            + list(settings),
            output="run.output",
        )

    def _train(self, name: str, words: Sequence[str], output: str = "output") -> None:
        done = self._root / name / "trained"
        if not done.exists():
            self._command(f"{name}.log", ["train", *words, f"{output}={self._root / name}"])
            done.touch()

    def _draw(self, row: Row, targets: dict[str, str]) -> None:
        """Draw, choose, and have the chosen ones judged."""
        drawn, chooser = _drawn(self._root, row), _chooser(row)
        outdir = drawn.parent
        scorers = {"outcome_scorer": "geneval"} if row.reward_model == "geneval" else {}
        config = outdir / f"{_folder(row)}.yaml"
        outdir.mkdir(parents=True, exist_ok=True)
        settings: dict[str, Any] = {
            "model": self._args.model,
            "name": "showo",
            "metadata_file": PROMPTS,
            "outdir": str(outdir),
            "reward_model": chooser,
            "dpo_model": row.dpo_model,
            "dpo_models": {name: str(self._root / name / "lora") for name in _dpo_models()},
            "search_num": self._args.candidates,
            "parm": {"potential": self._args.potential},
            "eval_num": self._args.unchosen if chooser == "none" else self._args.images,
            "batch_size": self._args.candidates,
            "dtype": self._args.dtype,
        }
        if chooser != "parm":
            settings["candidates"] = str(self._root / "candidates")
        if chooser != "none":
            settings["verifiers"] = {chooser: {"targets": [targets[row.reward_model]], **scorers}}
        config.write_text(yaml.safe_dump(settings))
        self._command(f"{_folder(row)}.log", ["best-of-n", "--config", f"{config}"])
        self._command(
            f"{_folder(row)}.log",
            [
                *("evaluate", "geneval", "--images", f"{drawn}"),
                *("--output", f"{self._root / 'judged' / _folder(row)}", "--target", targets["geneval"]),
            ],
        )

    def _command(self, log: str, words: Sequence[str]) -> None:
        print("assay", *words, flush=True)
        began = time.monotonic()
        with (self._root / log).open("a") as stream:
            command = [sys.executable, "-m", "assay.cli", *words]
            code = subprocess.run(command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, env=self._env).returncode
        if code:
            raise SystemExit(f"that failed: {self._root / log}")
        print(f"    {(time.monotonic() - began) / 60:.1f} minutes", flush=True)

    @contextmanager
    def _serving(self, service: str, name: str | None = None, settings: Sequence[str] = ()) -> Iterator[str]:
        """Inside, a service of its own runs; gives its address."""
        ready, log = self._root / f"{name or service}.ready.json", self._root / f"{name or service}.service.log"
        ready.unlink(missing_ok=True)
        flags = ["serve.grpc_port=0", "serve.http_port=null", f"serve.ready_file={ready}", *settings]
        command = [sys.executable, "-m", "assay.cli", "serve", service, *flags]
        with log.open("w") as stream:
            process = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, env=self._env)
        try:
            while not ready.exists():
                if process.poll() is not None:
                    raise SystemExit(f"the service did not start: {log}")
                time.sleep(0.1)
            yield str(json.loads(ready.read_text())["grpc"])
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()

    @property
    def _env(self) -> dict[str, str]:
        threads = str(self._args.threads)
        return {**os.environ, "OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def _dpo_models() -> list[str]:
    return list(dict.fromkeys(row.dpo_model for row in ROWS if row.dpo_model is not None))


def _variant(chooser: str, row: Row) -> str:
    """The folder that `assay best-of-n` writes to."""
    return "_".join(["showo", *([] if chooser == "none" else [chooser]), *([row.dpo_model] if row.dpo_model else [])])


def _chooser(row: Row) -> str:
    """What `assay best-of-n` calls it: GenEval stands in for the fine-tuned ORM."""
    return "orm_ft" if row.reward_model == "geneval" else row.reward_model


def _drawn(root: Path, row: Row) -> Path:
    """Where the pictures of a row are; GenEval's beside the others', which have the same name."""
    by = "by_geneval" if row.reward_model == "geneval" else "by_verifiers"
    return root / "drawn" / by / _variant(_chooser(row), row)


def _folder(row: Row) -> str:
    return _variant(row.reward_model, row)


def report(root: Path) -> None:
    """Print the table."""
    lines: list[str] = []
    for row in ROWS:
        path = root / "judged" / _folder(row) / "summary.json"
        if not path.exists():
            continue
        summary = json.loads(path.read_text())
        tags = summary["tags"]
        if not lines:
            lines = [f"| | overall | change | {' | '.join(tags)} | steps saved |", "|" + "---|" * (len(tags) + 4)]
        change = None if row is ROWS[0] else compare_prompts(_results(root, ROWS[0]), _results(root, row))
        saved = json.loads((_drawn(root, row) / "summary.json").read_text())["steps_saved"]
        cells = [f"{tags[tag][0]:.2f}" for tag in tags]
        shown = f"{saved:.0%}" if row.reward_model == "parm" and saved is not None else ""
        lines.append(
            f"| {row.title} | {_interval(summary['overall'])} | {_signed(change)} | {' | '.join(cells)} | {shown} |"
        )
    lines.append("")
    labels = _outcomes(root, Row("", "geneval"))
    for name in ("orm_zs", "orm_ft"):
        if labels and (margins := _outcomes(root, Row("", name))):
            right = [label > 0.5 for label in labels]
            agreed = agreement([float(margin >= 0) for margin in margins], right)
            area = area_under_curve(margins, right)
            lines.append(
                f"{name} of the {len(labels)} candidates: agrees {agreed:.3f}, area under the curve {area:.3f}"
            )
    text = "\n".join(lines)
    (root / "table.md").write_text(text + "\n")
    print(text)


def _interval(estimate: Sequence[float]) -> str:
    value, low, high = estimate
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def _signed(change: Estimate | None) -> str:
    return "" if change is None else f"{change.value:+.3f} ({change.low:+.3f} to {change.high:+.3f})"


def _results(root: Path, row: Row) -> list[ImageResult]:
    return read_results(root / "judged" / _folder(row) / "results.jsonl")


def _outcomes(root: Path, row: Row) -> list[float]:
    """What was said of each finished candidate of a row; nothing where the row is not there."""
    selections = [json.loads(path.read_text()) for path in sorted(_drawn(root, row).glob("*/selection.json"))]
    return [one["outcome"] for file in selections for image in file["images"] for one in image["candidates"]]


if __name__ == "__main__":
    main()
