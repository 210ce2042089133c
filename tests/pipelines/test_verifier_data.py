"""The data that verifiers learn from: what is asked, what is labelled how, and that nothing measured is learnt."""

import hashlib
import json
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from assay.cli import app
from assay.errors import ConfigError
from assay.outcomes import Failed, Outcome, Scored
from assay.questions import read_questions
from assay.serving.scorer import Sample, ScorerInfo
from assay.tasks import OutcomeTask, PotentialTask
from assay.testing import serve_in_background
from assay.vision_language.inquiry import Inquiry
from miniature.prompts import counting_metadata
from miniature.recipes import showo, showo_tokenizer
from pipelines.evaluate.prompts import PromptLine
from pipelines.reward_service import ServiceAddress
from pipelines.status_command import summary
from pipelines.verifier_data.balance import balance_outcomes, balance_potentials
from pipelines.verifier_data.command import verifier_data
from pipelines.verifier_data.conversations import further_examples, outcome_example, progress_examples
from pipelines.verifier_data.draw_worker import LoadDrawWorker
from pipelines.verifier_data.further_prompts import most_alike
from pipelines.verifier_data.held_out import is_held_out, split, words_of
from pipelines.verifier_data.label_worker import LoadLabelWorker
from pipelines.verifier_data.pairs import make_pairs
from pipelines.verifier_data.paths import Candidate, FurtherLabel, Label
from pipelines.verifier_data.settings import DerivationSettings
from services.geneval.service import build_scorers
from services.verifier.scorer import VerifierScorer

ROOT = Path(__file__).parents[2]
STEPS, CANDIDATES = 5, 8
FILES = ["orm.json", "orm_held_out.json", "parm.json", "parm_held_out.json", "pairs.jsonl", "summary.json"]


def is_even(pixels: Any) -> bool:
    """As good as a coin, and the same for the same pixels."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).digest()[0] % 2 == 0


class Coin:
    """Takes an image for right if `is_even`, and for some prompts if it is not; some prompts get no answer."""

    def __init__(self) -> None:
        self.refuses: list[str] = []
        self.refusal = Failed("INVALID_ARGUMENT", "UNKNOWN_CLASS", "no such class")
        self.contradicts: set[str] = set()
        self.info = ScorerInfo("geneval", "1" * 16, (0.0, 1.0), True, ("GenEvalTask",))
        self.judged = 0

    def score(self, batch: Sequence[Sample]) -> list[Outcome]:
        self.judged += len(batch)
        return [
            self.refusal
            if sample.prompt in self.refuses
            else Scored(
                0.5, {"correct": float(is_even(sample.images[0]) != (sample.prompt in self.contradicts)), "soft": 0.5}
            )
            for sample in batch
        ]

    def warm_up_sample(self) -> Sample:
        return Sample("warm-up", (np.zeros((8, 8, 3), np.uint8),), "", None)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained, at the miniature's size."""
    torch.manual_seed(0)
    vq_model = showo_tokenizer.build_model(bits=6, width=8).eval()
    folder = tmp_path_factory.mktemp("verifier-data") / "showo"
    showo.build_pipeline(vq_model, heads=1, layers=1).save_pretrained(folder)
    return folder


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    tasks = [counting_metadata(name, 2) for name in ("cup", "kite", "apple")]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    return tmp_path / "prompts.jsonl"


@pytest.fixture
def coin() -> Coin:
    return Coin()


@pytest.fixture
def flags(model: Path, prompts: Path, coin: Coin, tmp_path: Path) -> Iterator[list[str]]:
    with serve_in_background([coin]) as server:
        yield [
            f"model={model}",
            f"prompts={prompts}",
            f"output={tmp_path / 'data'}",
            f"targets=[{server.target!r}]",
            f"num_candidates={CANDIDATES}",
            f"num_steps={STEPS}",
            "batch_size=5",
            "held_out=0.25",
            "split_by=seed",
        ]


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def answers(row: dict[str, Any]) -> list[str]:
    return [turn["value"] for turn in row["conversations"][1::2]]


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_pictures_are_labelled_by_the_service_and_by_their_step(flags: list[str], coin: Coin, tmp_path: Path) -> None:
    assert verifier_data(None, [*flags, "outcome_share=1"]) == 0
    folder = tmp_path / "data"
    finals = [*read(folder / "orm.json"), *read(folder / "orm_held_out.json")]
    assert len(finals) == len({row["image"] for row in finals}) == 3 * CANDIDATES
    right = {Path(row["image"]).parent: "yes" if is_even(picture(folder / row["image"])) else "no" for row in finals}
    assert [answers(row) for row in finals] == [[right[Path(row["image"]).parent]] for row in finals]
    assert set(right.values()) == {"yes", "no"}

    rows = [*read(folder / "parm.json"), *read(folder / "parm_held_out.json")]
    assert len({row["id"] for row in rows}) == len(rows) == 3 * CANDIDATES * (1 + 4)
    for row in rows:
        name, of_final = Path(row["image"]).stem, right[Path(row["image"]).parent]
        said = {"step_01": ["no"], "step_02": ["no"], "step_04": ["yes", of_final], "step_05": ["yes", of_final]}
        assert answers(row) == said.get(name, [of_final])  # three fifths lie between clear and not clear
        assert row["kinds"] == (["clarity", "potential"][: len(answers(row))] if name != "final" else ["orm"])
        assert (folder / row["image"]).is_file()
    assert np.array_equal(*(picture(folder / f"images/00000/0003/{name}.png") for name in ("step_05", "final")))

    counted = read(folder / "summary.json")
    assert counted["prompts"] == {"planned": 3, "done": 3, "failed": 0, "excluded": 0}
    assert counted["labels"]["yes"] == sum(label == "yes" for label in right.values())
    assert counted["files"]["orm.json"]["orm"]["yes"] == sum(answers(r) == ["yes"] for r in read(folder / "orm.json"))

    # Nothing is done again, and the files can be derived again.
    before, judged = {name: (folder / name).read_bytes() for name in FILES}, coin.judged
    assert verifier_data(None, [*flags, "outcome_share=1"]) == 0
    assert coin.judged == judged
    for name in FILES:
        (folder / name).unlink()
    assert summary(folder) == 0
    assert {name: (folder / name).read_bytes() for name in FILES} == before


def test_nothing_on_one_path_is_on_both_sides(flags: list[str], tmp_path: Path) -> None:
    assert verifier_data(None, flags) == 0
    folder = tmp_path / "data"
    sides = [
        {str(Path(row["image"]).parent) for name in ("orm", "parm") for row in read(folder / f"{name}{side}.json")}
        for side in ("", "_held_out")
    ]
    assert sides[0]
    assert sides[1]
    assert not sides[0] & sides[1]
    for name, side in (("pairs.jsonl", sides[0]), ("pairs_held_out.jsonl", sides[1])):
        for line in (folder / name).read_text().splitlines():
            assert {str(Path(json.loads(line)[one]).parent) for one in ("chosen", "rejected")} <= side


def test_a_candidate_is_drawn_from_its_own_seed(flags: list[str], tmp_path: Path) -> None:
    """More of them, in other batches, leave the first as they were."""
    small, large = tmp_path / "small", tmp_path / "large"
    assert verifier_data(None, [*flags, f"output={small}", "num_candidates=2", "steps=[]", "max_prompts=1"]) == 0
    assert verifier_data(None, [*flags, f"output={large}", "steps=[4]", "max_prompts=1"]) == 0
    for number in ("0000", "0001"):
        one, other = (picture(root / f"images/00000/{number}/final.png").astype(int) for root in (small, large))
        assert np.abs(one - other).max() <= 1  # rounding depends on what else is in the batch
    assert sorted(path.name for path in (large / "images/00000/0000").iterdir()) == ["final.png", "step_04.png"]
    assert not (small / "parm.json").exists()


def test_a_picture_without_a_score_is_no_label(flags: list[str], coin: Coin, tmp_path: Path) -> None:
    coin.refuses = ["a photo of two kites"]
    assert verifier_data(None, [*flags, "retries=0"]) == 1
    folder = tmp_path / "data"
    assert read(folder / "summary.json")["prompts"] == {"planned": 3, "done": 2, "failed": 1, "excluded": 0}
    rows = [*read(folder / "orm.json"), *read(folder / "orm_held_out.json")]
    assert {row["prompt"] for row in rows} == {"a photo of two cups", "a photo of two apples"}
    assert (folder / "images/00001/drawn.json").exists()
    coin.refuses = []
    drawn = (folder / "images/00001/drawn.json").stat().st_mtime_ns
    assert verifier_data(None, flags) == 0
    assert (folder / "images/00001/drawn.json").stat().st_mtime_ns == drawn


def test_a_picture_that_a_judge_abstains_on_is_wrong_only_if_that_is_asked_for(
    flags: list[str], coin: Coin, tmp_path: Path
) -> None:
    coin.refuses = ["a photo of two kites"]
    coin.refusal = Failed("FAILED_PRECONDITION", "JUDGE_ABSTAINED", "the detector found 2 of 'kite'")
    assert verifier_data(None, [*flags, "steps=[]", "retries=0"]) == 1
    assert not (tmp_path / "data/labels/00001").exists()
    assert verifier_data(None, [*flags, "steps=[]", "retries=0", "abstained=wrong"]) == 0
    labels = {name: read(tmp_path / f"data/labels/{name}/labels.json") for name in ("00000", "00001")}
    assert {label["label"] for label in labels["00001"]} == {"no"}
    assert {label["label"] for label in labels["00000"]} == {"yes", "no"}
    pairs = [json.loads(line)["prompt"] for line in (tmp_path / "data/pairs.jsonl").read_text().splitlines()]
    assert "a photo of two kites" not in pairs
    coin.refusal = Failed("FAILED_PRECONDITION", "NOT_READY", "no such model")
    assert verifier_data(None, [*flags, "steps=[]", "retries=0", "abstained=wrong", "skip_existing=false"]) == 1


def test_a_number_that_is_neither_yes_nor_no_is_no_label(flags: list[str], tmp_path: Path) -> None:
    assert verifier_data(None, [*flags, "component=soft", "steps=[]", "max_prompts=1", "retries=0"]) == 1
    failure = next((tmp_path / "data/.assay/failures").glob("*.json")).read_text()
    assert "component = 'soft' of scorer 'geneval' is 0.5; a label is 0 or 1; it has correct, soft" in failure


def test_prompts_that_are_measured_on_are_not_drawn(flags: list[str], prompts: Path, tmp_path: Path) -> None:
    measured = tmp_path / "measured.jsonl"
    task = {**counting_metadata("kite", 2), "prompt": "A photo of  two kites"}
    measured.write_text(json.dumps(task) + "\n")
    command = ["data", "verifier", *flags, "--exclude", str(measured), "steps=[]", "num_candidates=1"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "data/images").iterdir()) == ["00000", "00002"]
    assert read(tmp_path / "data/summary.json")["prompts"]["excluded"] == 1
    with pytest.raises(ConfigError, match="all 3 prompts are in exclude"):
        verifier_data(None, [*flags, f"exclude=[{prompts}]"])


def test_other_models_give_finished_pictures(flags: list[str], tmp_path: Path) -> None:
    sd3 = [f"model={ROOT / 'miniature/weights/sd3'}", "num_steps=2", "guidance_scale=1", "max_sequence_length=0"]
    sized = [*flags, *sd3, "height=64", "width=64", "max_prompts=1", "num_candidates=3"]
    assert verifier_data(None, sized) == 0
    assert len(list((tmp_path / "data/images/00000").rglob("*.png"))) == 3
    assert not (tmp_path / "data/parm.json").exists()
    with pytest.raises(ConfigError, match=r"steps is Show-o's alone; .* holds a StableDiffusion3Pipeline"):
        verifier_data(None, [*sized, "steps=[1]"])


def test_the_real_service_labels(flags: list[str], tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "configs/services/geneval.yaml").read_text())["scorer"]
    with serve_in_background(build_scorers(config)) as server:
        few = [*flags, f"targets=[{server.target!r}]", "num_candidates=2", "steps=[5]", "max_prompts=1"]
        assert verifier_data(None, few) == 0
    labels = read(tmp_path / "data/labels/00000/labels.json")
    assert [one["label"] for one in labels] == ["no", "no"]  # it cannot draw yet
    assert {"correct", "strict_correct", "found/cup"} <= set(labels[0]["components"])


def test_the_most_alike_prompts_share_most_words() -> None:
    texts = ["a photo of two cups", "a photo of three cups", "a photo of two kites", "two Cups a photo of", "a dog"]
    tasks = [{"tag": "counting", "include": [], "prompt": text} for text in texts]
    lines = [PromptLine(index, "", task) for index, task in enumerate(tasks)]
    found = [task["prompt"] for task in most_alike(lines[0], lines, 4)]
    assert found[0] == texts[3]  # the same words in another order are another prompt
    assert sorted(found[1:3]) == sorted(texts[1:3])  # four words of six
    assert found[3] == texts[4]
    assert most_alike(lines[0], lines, 0) == []
    assert [task["prompt"] for task in most_alike(lines[0], lines[::-1], 4)] == found


def test_pictures_are_labelled_by_further_prompts_but_not_measured_by_them(
    flags: list[str], coin: Coin, tmp_path: Path
) -> None:
    """Of three prompts, two have the labels of the third turned round. One is held out."""
    warm_up = coin.judged
    coin.contradicts = {counting_metadata(name, 2)["prompt"] for name in ("cup", "kite")}
    wanted = [*flags, "further_prompts=2", "split_by=prompt", "held_out=0.34", "split_seed=1", "steps=[]"]
    assert verifier_data(None, wanted) == 0
    learnt, measured = (read(tmp_path / "data" / name) for name in ("orm.json", "orm_held_out.json"))
    kept_out = {row["prompt"] for row in measured}
    assert len(kept_out) == 1
    assert len(measured) == CANDIDATES
    # Each of the other two prompts' pictures is asked about both of these, and never about the one that is held out.
    assert len(learnt) == 2 * 2 * CANDIDATES
    assert kept_out.isdisjoint(row["prompt"] for row in learnt)
    assert all(row["prompt"] in row["conversations"][0]["value"] for row in learnt)
    assert len({row["id"] for row in learnt}) == len(learnt)
    for row in learnt:
        with Image.open(tmp_path / "data" / row["image"]) as picture:
            right = is_even(np.asarray(picture)) != (row["prompt"] in coin.contradicts)
        assert answers(row) == ["yes" if right else "no"]
    assert len({row["prompt"] in coin.contradicts for row in learnt}) == 2
    assert coin.judged - warm_up == 3 * 3 * CANDIDATES
    (held,) = kept_out
    shouted = candidate(0, "yes")
    shouted = replace(shouted, further=(FurtherLabel({"tag": "counting", "prompt": held.upper()}, "no"),))
    assert further_examples(shouted, read_questions(), {words_of(held)}) == []
    assert len(further_examples(shouted, read_questions(), ())) == 1
    # More of them cost labels, but no picture.
    drawn = {path: path.stat().st_mtime_ns for path in (tmp_path / "data/images").rglob("*.png")}
    assert verifier_data(None, [*wanted, "further_prompts=1"]) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data/images").rglob("*.png")} == drawn
    assert coin.judged - warm_up == (9 + 6) * CANDIDATES


def test_workers_travel_to_other_processes(model: Path) -> None:
    arguments = {"num_inference_steps": 2, "guidance_scale": None, "height": 64, "width": 64}
    load = LoadDrawWorker(str(model), None, {**arguments, "max_sequence_length": None}, 0.5, (1,), 2, "float32")
    assert pickle.loads(pickle.dumps(load)) == load
    label = LoadLabelWorker(ServiceAddress(("localhost:1",), 5.0))
    assert pickle.loads(pickle.dumps(label)) == label


def candidate(number: int, label: Label, tag: str = "counting", item: str = "00000", steps: int = 18) -> Candidate:
    metadata = {"tag": tag, "include": [], "prompt": f"a photo of {tag} {item}"}
    folder = f"images/{item}/{number:04d}"
    files = {step: f"{folder}/step_{step:02d}.png" for step in range(1, steps + 1)}
    return Candidate(item, number, metadata, label, f"{folder}/final.png", files, steps)


def test_clear_is_after_eleven_of_eighteen_steps_and_not_clear_before_ten() -> None:
    examples = progress_examples(candidate(0, "no"), read_questions(), DerivationSettings())
    assert {one.step: one.turns[0].answer for one in examples} == {
        **dict.fromkeys(range(1, 10), "no"),
        **dict.fromkeys(range(12, 19), "yes"),
    }
    assert [[turn.answer for turn in one.turns] for one in examples if one.step == 12] == [["yes", "no"]]


class Listening:
    """A judge that remembers what it is asked."""

    deterministic = True

    def __init__(self) -> None:
        self.fingerprint_parts: dict[str, str] = {}
        self.asked: list[Inquiry] = []

    def special_text(self, text: str) -> str | None:
        return None

    def ask(self, inquiries: Sequence[Inquiry]) -> list[Any]:
        self.asked += inquiries
        return [Failed("UNAVAILABLE", "LISTENS_ONLY", "")] * len(inquiries)


def test_what_is_trained_is_what_is_asked_byte_for_byte() -> None:
    """Against the service's own scorers, with their own questions."""
    questions, image = read_questions(), (np.zeros((8, 8, 3), np.uint8),)
    one = candidate(0, "yes")
    trained = [outcome_example(one, questions), *progress_examples(one, questions, DerivationSettings())]
    by_name: dict[str, list[list[str]]] = {}
    for name in ("orm", "parm-clarity", "parm-potential"):
        judge = Listening()
        tasks = [OutcomeTask()] if name == "orm" else [PotentialTask(step, 18) for step in (3, 15)]
        scorer = VerifierScorer(name, judge, questions, "logits")
        scorer.score([Sample("x", image, one.prompt, task) for task in tasks])
        by_name[name] = [list(inquiry.turns) for inquiry in judge.asked]
    said = {example.step: [turn.question for turn in example.turns] for example in trained}
    assert by_name["orm"] == [said[None]]
    assert by_name["parm-clarity"] == [said[3], said[15][:1]]
    assert by_name["parm-potential"][1] == said[15]
    # In the file, too.
    row = json.loads(json.dumps(trained[-1].to_json()))
    assert [turn["value"] for turn in row["conversations"][::2]] == list(said[18])
    assert [turn["from"] for turn in row["conversations"]] == ["human", "gpt"] * 2


def test_whole_prompts_are_held_out_and_more_prompts_move_none() -> None:
    settings = DerivationSettings(held_out=0.3)
    many = [candidate(number, "yes", item=f"{item:05d}") for item in range(200) for number in range(2)]
    learnt, measured = split(many, settings)
    assert not {one.prompt for one in learnt} & {one.prompt for one in measured}
    assert 0.2 < len(measured) / len(many) < 0.4
    assert [one for one in measured if int(one.item) < 20] == split(many[:40], settings)[1]
    again = Candidate(**{**vars(many[0]), "item": "00777", "metadata": {"prompt": many[0].prompt.upper(), "tag": "x"}})
    assert is_held_out(again, settings) == is_held_out(many[0], settings)


def test_balance_leaves_as_many_yes_as_no_in_each_tag() -> None:
    labels: list[Label] = ["yes", "yes", "yes", "no"]
    right = [candidate(n, label, tag) for tag in ("counting", "colors") for n, label in enumerate(labels)]
    examples = [outcome_example(one, read_questions()) for one in right]
    kept = balance_outcomes(examples, 0)
    assert sorted((one.tag, one.last.answer) for one in kept) == [
        ("colors", "no"),
        ("colors", "yes"),
        ("counting", "no"),
        ("counting", "yes"),
    ]
    assert balance_outcomes(examples, 0) == kept
    assert any(balance_outcomes(examples, seed) != kept for seed in range(1, 6))
    # An unfinished picture stays, as a question about its clarity.
    progress = [
        example
        for one in right[:4]
        for example in progress_examples(one, read_questions(), DerivationSettings())
        if example.step in (3, 15)
    ]
    balanced = balance_potentials(progress, 0)
    assert len(balanced) == len(progress)
    assert sorted(one.last.answer for one in balanced if one.last.kind == "potential") == ["no", "yes"]
    assert sum(one.turns[0].answer == "yes" for one in balanced) == 4


def test_pairs_are_right_and_wrong_and_prompts_that_agree_give_none() -> None:
    labels: list[Label] = ["yes", "no", "no", "yes"]
    mixed = [candidate(number, label) for number, label in enumerate(labels)]
    agreeing = [candidate(n, "yes", item="00001") for n in range(3)] + [candidate(0, "no", item="00002")]
    pairs = make_pairs([*mixed, *agreeing], 3, 0)
    assert (pairs.all_yes, pairs.all_no, len(pairs.rows)) == (1, 1, 3)
    files = {one.final: one.label for one in mixed}
    assert {(files[row["chosen"]], files[row["rejected"]]) for row in pairs.rows} == {("yes", "no")}
    assert len({(row["chosen"], row["rejected"]) for row in pairs.rows}) == 3
    assert pairs.rows[0]["metadata"]["tag"] == "counting"
    assert make_pairs(mixed, 1, 0).rows == pairs.rows[:1]
    assert len(make_pairs(mixed, 99, 0).rows) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["unclear_below=0.8"], "unclear_below = 0.8 is above clear_above = 0.6"),
        (["steps=[6]"], "steps names 6; allowed: 1 to 5"),
        (["scorer=orm"], "scorer = 'orm'; allowed: geneval"),
        (["held_out=1"], "held_out = 1: .*less than 1"),
        (["prompts=nowhere.jsonl"], "nowhere.jsonl: there is no such file"),
        (["questions.orm=nowhere.txt"], "questions.orm = 'nowhere.txt' cannot be read"),
    ],
)
def test_wrong_settings_are_named(flags: list[str], settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        verifier_data(None, [*flags, *settings])
