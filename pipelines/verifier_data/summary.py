"""The files that are learnt from, and what is in them, from what the ledger says is done.

orm.json parm.json pairs.jsonl                                     to learn from
orm_held_out.json parm_held_out.json pairs_held_out.jsonl          to measure on: nothing balanced, nothing left out
summary.json                                                       how many of what
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence, Set
from pathlib import Path
from typing import Any

from assay.files import write_whole
from pipelines.engine.ledger import Ledger, State
from pipelines.engine.status import read_plans
from pipelines.engine.unit import PlannedUnit
from pipelines.verifier_data import label_worker
from pipelines.verifier_data.balance import balance_outcomes, balance_potentials
from pipelines.verifier_data.conversations import Example, further_examples, outcome_example, progress_examples
from pipelines.verifier_data.derivation import Derivation
from pipelines.verifier_data.held_out import share_of, split, words_of
from pipelines.verifier_data.pairs import Pairs, make_pairs
from pipelines.verifier_data.paths import Candidate, read_candidates

JOB = "verifier-data"


def write_summary(ledger: Ledger) -> list[Path]:
    """Write all files, and return them. `parm.json` is there only if unfinished pictures were kept.

    Raises:
        ConfigError: the folder does not say how they are derived.
    """
    derivation = Derivation.load(ledger.root)
    units = [unit for plan in read_plans(ledger) if plan.job == JOB for unit in plan.units]
    candidates = read_candidates(ledger, units)
    learnt, measured = split(candidates, derivation.settings)
    only_measured = {words_of(one.prompt) for one in measured} - {words_of(one.prompt) for one in learnt}
    examples = {
        **_files(learnt, derivation, "", is_learnt=True, barred=only_measured),
        **_files(measured, derivation, "_held_out", is_learnt=False),
    }
    pairs = {
        name: make_pairs(side, derivation.settings.pairs_per_prompt, derivation.settings.split_seed)
        for name, side in (("pairs.jsonl", learnt), ("pairs_held_out.jsonl", measured))
    }
    written = [_write(ledger.root / name, _as_json(found)) for name, found in examples.items()]
    written += [_write(ledger.root / name, _as_lines(found.rows)) for name, found in pairs.items()]
    summary = {
        "prompts": _prompts(ledger, units, derivation),
        **summarize(candidates, examples, pairs),
    }
    return [*written, _write(ledger.root / "summary.json", json.dumps(summary, indent=1) + "\n")]


def _files(
    candidates: Sequence[Candidate],
    derivation: Derivation,
    ending: str,
    *,
    is_learnt: bool,
    barred: Set[tuple[str, ...]] = frozenset(),
) -> dict[str, list[Example]]:
    """Name -> examples, of one side of the split; of those to learn from, none asks about a `barred` prompt."""
    settings, seed = derivation.settings, derivation.settings.split_seed
    outcomes = [outcome_example(candidate, derivation.questions) for candidate in candidates]
    progress = [
        example for candidate in candidates for example in progress_examples(candidate, derivation.questions, settings)
    ]
    chosen = outcomes
    if is_learnt:
        for candidate in candidates:
            outcomes += further_examples(candidate, derivation.questions, barred)
        if settings.balance == "tag":
            outcomes, progress = balance_outcomes(outcomes, seed), balance_potentials(progress, seed)
        chosen = [one for one in outcomes if share_of("outcome", seed, one.id) < settings.outcome_share]
    files = {f"orm{ending}.json": outcomes}
    return {**files, f"parm{ending}.json": [*progress, *chosen]} if progress else files


def summarize(
    candidates: Sequence[Candidate], examples: dict[str, list[Example]], pairs: dict[str, Pairs]
) -> dict[str, Any]:
    """Numbers over all that is done.

    Args:
        candidates: all of them.
        examples: by file.
        pairs: by file.
    """
    by_tag: dict[str, list[str]] = defaultdict(list)
    for candidate in candidates:
        by_tag[candidate.tag].append(candidate.label)
    return {
        "candidates": len(candidates),
        "labels": _counts(candidate.label for candidate in candidates),
        "labels_by_tag": {tag: _counts(labels) for tag, labels in sorted(by_tag.items())},
        "files": {name: _by_kind(found) for name, found in examples.items()},
        "files_by_step": {name: steps for name, found in examples.items() if (steps := _by_step(found))},
        "pairs": {
            name: {"pairs": len(found.rows), "prompts_all_yes": found.all_yes, "prompts_all_no": found.all_no}
            for name, found in pairs.items()
        },
    }


def _by_kind(examples: Sequence[Example]) -> dict[str, dict[str, float]]:
    answers: dict[str, list[str]] = defaultdict(list)
    for turn in (turn for example in examples for turn in example.turns):
        answers[turn.kind].append(turn.answer)
    return {kind: _counts(labels) for kind, labels in sorted(answers.items())}


def _by_step(examples: Sequence[Example]) -> dict[str, Any]:
    steps: dict[int, list[Example]] = defaultdict(list)
    for example in examples:
        if example.step is not None:
            steps[example.step].append(example)
    return {str(step): _by_kind(found) for step, found in sorted(steps.items())}


def _counts(labels: Iterable[str]) -> dict[str, float]:
    counted = Counter(labels)
    total = counted["yes"] + counted["no"]
    share = {"share_of_yes": round(counted["yes"] / total, 4)} if total else {}
    return {"yes": counted["yes"], "no": counted["no"], **share}


def _prompts(ledger: Ledger, units: Sequence[PlannedUnit], derivation: Derivation) -> dict[str, int]:
    states: dict[str, list[State]] = defaultdict(list)
    for unit in units:
        states[unit.item].append(ledger.state(unit))
    done = sum(ledger.state(unit) is State.DONE for unit in units if unit.stage == label_worker.STAGE)
    failed = sum(State.FAILED in found for found in states.values())
    return {"planned": len(states), "done": done, "failed": failed, "excluded": derivation.excluded}


def _as_json(examples: Sequence[Example]) -> str:
    return json.dumps([example.to_json() for example in examples], indent=1) + "\n"


def _as_lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _write(path: Path, text: str) -> Path:
    write_whole(path, text)
    return path
