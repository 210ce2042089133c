"""Best of N: which candidate is chosen, what a search costs, and what happens when there is no answer."""

import json
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from typer.testing import CliRunner

from assay.cli import app
from assay.config import load_config
from assay.errors import ConfigError
from assay.outcomes import Failed, Outcome, Scored
from assay.serving.scorer import Sample, ScorerInfo
from assay.tasks import PotentialTask
from assay.testing import serve_in_background
from generators.showo.pipeline import ShowoPipeline
from generators.text_to_image import TextToImage
from miniature.prompts import counting_metadata
from miniature.recipes import showo, showo_tokenizer
from pipelines.best_of_n.command import best_of_n
from pipelines.best_of_n.plan import candidate_seed, plan_units
from pipelines.best_of_n.prompts import read_prompts
from pipelines.best_of_n.settings import BestOfNSettings
from pipelines.best_of_n.worker import LoadBestOfNWorker
from pipelines.engine.unit import Unit
from pipelines.evaluate.image_folder import read_image_folder
from pipelines.reward_service import ServiceAddress

STEPS, CANDIDATES = 5, 6
SD3 = Path(__file__).parents[2] / "miniature/weights/sd3"
#: It has no T5.
SD3_SAMPLING = {"num_inference_steps": 2, "guidance_scale": 1.0, "height": 64, "width": 64, "max_sequence_length": 0}


def redness(image: Any) -> float:
    return float(np.asarray(image)[..., 0].mean() / 255)


class Judge:
    """Finished images are the better the redder; unfinished ones are clear from step 2 on, or never.

    Args:
        name: of the scorer.
        clear_from: step from which images are clear.
        potential_of: what an image's redness makes of its potential.
        refuses: prompts that get no answer.
    """

    def __init__(self, name: str, clear_from: int = 2, refuses: Sequence[str] = ()) -> None:
        self._name, self.clear_from, self.refuses = name, clear_from, refuses
        self.steps: list[int] = []

    @property
    def info(self) -> ScorerInfo:
        tasks = ("OutcomeTask", "GenEvalTask") if self._name == "orm" else ("PotentialTask",)
        return ScorerInfo(self._name, "1" * 16, (0.0, 1.0), True, tasks)

    def score(self, batch: Sequence[Sample]) -> list[Outcome]:
        return [self._one(sample) for sample in batch]

    def warm_up_sample(self) -> Sample:
        task = None if self._name == "orm" else PotentialTask(0, 1)
        return Sample("warm-up", (np.zeros((8, 8, 3), np.uint8),), "", task)

    def _one(self, sample: Sample) -> Outcome:
        if sample.prompt in self.refuses:
            return Failed("INVALID_ARGUMENT", "PROMPT_TOO_LONG", "no")
        red = redness(sample.images[0])
        if self._name == "orm":
            return Scored(0.999999, {"margin": red})  # values alone would tie
        assert isinstance(sample.task, PotentialTask)
        self.steps.append(sample.task.step)
        if self._name == "parm-clarity":
            return Scored(float(sample.task.step >= self.clear_from))
        return Scored(red)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained, at the miniature's size."""
    torch.manual_seed(0)
    vq_model = showo_tokenizer.build_model(bits=6, width=8).eval()
    folder = tmp_path_factory.mktemp("best-of-n") / "showo"
    showo.build_pipeline(vq_model, heads=1, layers=1).save_pretrained(folder)
    return folder


@pytest.fixture
def metadata_file(tmp_path: Path) -> Path:
    path = tmp_path / "metadata.jsonl"
    path.write_text("".join(json.dumps(counting_metadata(name, 2)) + "\n" for name in ("cup", "kite")))
    return path


@pytest.fixture
def judges() -> dict[str, Judge]:
    return {name: Judge(name) for name in ("orm", "parm-clarity", "parm-potential")}


@pytest.fixture
def flags(model: Path, metadata_file: Path, judges: dict[str, Judge], tmp_path: Path) -> Iterator[list[str]]:
    """Settings of a small run, its verifier being served."""
    with serve_in_background(list(judges.values())) as server:
        for judge in judges.values():
            judge.steps.clear()  # less what the server has warmed up with
        verifiers = {name: {"targets": [server.target]} for name in ("orm_zs", "orm_ft", "parm")}
        yield [
            f"model={model}",
            f"metadata_file={metadata_file}",
            f"outdir={tmp_path / 'results'}",
            f"verifiers={json.dumps(verifiers)}",
            f"search_num={CANDIDATES}",
            "eval_num=2",
            f"generation_timesteps={STEPS}",
            "batch_size=4",
            "keep_candidates=true",
        ]


def planned(flags: list[str], item: int) -> Unit:
    values: dict[str, Any] = {flag.split("=", 1)[0]: flag.split("=", 1)[1] for flag in flags}
    values["verifiers"] = json.loads(values["verifiers"])
    settings = BestOfNSettings(**values)
    return plan_units(read_prompts(None, settings.metadata_file), settings, "", {})[item]


def candidates(model: Path, flags: list[str], item: int, image: int, **sampling: Any) -> list[np.ndarray]:
    """Each drawn alone, to its end."""
    unit = planned(flags, item)
    pipeline = ShowoPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    return [
        np.asarray(
            pipeline(
                unit.inputs["metadata"]["prompt"],
                torch.Generator().manual_seed(candidate_seed(unit, image, number)),
                num_inference_steps=STEPS,
                **sampling,
            ).images[0]
        )
        for number in range(CANDIDATES)
    ]


def is_same(one: np.ndarray, other: np.ndarray) -> bool:
    """Up to rounding, which depends on what else was in the batch."""
    return bool(np.abs(one.astype(int) - other.astype(int)).max() <= 1)


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def selection(folder: Path, item: int = 0) -> dict[str, Any]:
    return json.loads((folder / f"{item:05d}" / "selection.json").read_text())


def test_the_orm_chooses_the_candidate_that_it_likes_best(model: Path, flags: list[str], tmp_path: Path) -> None:
    assert best_of_n(None, [*flags, "reward_model=orm_ft"]) == 0
    folder = tmp_path / "results" / "showo_orm_ft"
    for item in (0, 1):
        for image in (0, 1):
            drawn = candidates(model, flags, item, image)
            best = max(range(CANDIDATES), key=lambda number: redness(drawn[number]))
            chosen = selection(folder, item)["images"][image]
            assert chosen["best"] == best
            assert is_same(picture(folder / f"{item:05d}/samples/{image:04d}.png"), drawn[best])
            assert [one["outcome"] for one in chosen["candidates"]] == pytest.approx(
                [redness(one) for one in drawn], abs=1e-4
            )
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["asked"] == {"outcome": 2 * 2 * CANDIDATES}
    assert (summary["images"], summary["steps_saved"]) == (4, 0)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many candidates each pass draws."""
    drawn: list[int] = []
    generate = TextToImage.generate

    def count(self: TextToImage, prompts: Sequence[str], seeds: Sequence[int], **further: Any) -> list[Image.Image]:
        drawn.append(len(seeds))
        return generate(self, prompts, seeds, **further)

    monkeypatch.setattr(TextToImage, "generate", count)
    return drawn


def test_kept_candidates_are_not_drawn_again_for_another_verifier(
    flags: list[str], tmp_path: Path, passes: list[int]
) -> None:
    kept = f"candidates={tmp_path / 'candidates'}"
    assert best_of_n(None, [*flags, kept, "reward_model=orm_ft"]) == 0
    assert sum(passes) == 2 * 2 * CANDIDATES
    assert best_of_n(None, [*flags, kept, "reward_model=orm_zs"]) == 0  # the same judge by another name
    assert best_of_n(None, [*flags, kept]) == 0
    assert sum(passes) == 2 * 2 * CANDIDATES
    one, other = (tmp_path / "results" / f"showo_{name}" for name in ("orm_ft", "orm_zs"))
    pictures = sorted(path.relative_to(one) for path in one.rglob("*.png"))
    assert len(pictures) == 2 * 2 * (CANDIDATES + 1)
    assert all((one / path).read_bytes() == (other / path).read_bytes() for path in pictures)
    assert best_of_n(None, [*flags, kept, "reward_model=orm_zs", f"search_num={CANDIDATES + 1}"]) == 0
    assert sum(passes) == 2 * 2 * (CANDIDATES + 1)  # one more of each
    assert best_of_n(None, [*flags, kept, "name=guided", "guidance_scale=0.5"]) == 0
    assert sum(passes) == 2 * 2 * (CANDIDATES + 2)  # other candidates, for all that the first had the same seeds


@pytest.mark.parametrize("setting", ["reward_model=parm", "temperature_carry=true"])
def test_candidates_are_kept_only_where_they_depend_on_their_seed_alone(flags: list[str], setting: str) -> None:
    with pytest.raises(ConfigError, match="candidates = 'kept' with"):
        best_of_n(None, [*flags, "candidates=kept", setting])


def test_without_a_verifier_the_first_candidate_is_kept(
    model: Path, flags: list[str], tmp_path: Path, passes: list[int]
) -> None:
    assert best_of_n(None, flags) == 0
    assert passes == [2, 2]  # a prompt's images are drawn together
    for image in (0, 1):
        path = tmp_path / f"results/showo/00001/samples/{image:04d}.png"
        assert is_same(picture(path), candidates(model, flags, 1, image)[0])


@pytest.mark.parametrize("prune", [True, False])
def test_paths_without_potential_are_given_up_when_they_are_clear(
    model: Path, flags: list[str], judges: dict[str, Judge], tmp_path: Path, prune: bool
) -> None:
    """Whether they are drawn to their end or not, the same image is chosen."""
    assert best_of_n(None, [*flags, "reward_model=none", "search_num=1"]) == 0
    reds = sorted(redness(one) for one in candidates(model, flags, 0, 0))
    middle = (reds[2] + reds[3]) / 2
    settings = [*flags, "reward_model=parm", f"parm.potential={middle}", f"parm.prune={json.dumps(prune)}"]
    assert best_of_n(None, settings) == 0
    folder = tmp_path / "results" / "showo_parm"
    record = selection(folder)
    assert record["asked"]["potential"] == 2 * CANDIDATES  # once for each path
    assert record["asked"]["clarity"] == 2 * 2 * CANDIDATES  # after the first step, and after the second
    assert set(judges["parm-potential"].steps) == {2}
    for image, chosen in enumerate(record["images"]):
        drawn = candidates(model, flags, 0, image)
        judged = chosen["candidates"]
        promising = [number for number, one in enumerate(judged) if one["potential"] >= middle]
        for number, one in enumerate(judged):
            assert one["clear_at"] == 2
            drawn_again = not promising and number == chosen["best"]
            given_up = prune and number not in promising
            assert one["steps"] == (2 + STEPS * drawn_again if given_up else STEPS)
            assert ("outcome" in one) == (number in promising)
        if promising:
            best = max(promising, key=lambda number: redness(drawn[number]))
            assert chosen["best"] == best
        assert is_same(picture(folder / f"00000/samples/{image:04d}.png"), drawn[chosen["best"]])
        unpruned = CANDIDATES * STEPS
        assert chosen["steps_of_all"] == unpruned
        if promising:
            assert chosen["steps"] == (unpruned - 3 * (CANDIDATES - len(promising)) if prune else unpruned)


def test_if_all_are_given_up_the_one_with_the_most_potential_is_drawn(
    model: Path, flags: list[str], tmp_path: Path
) -> None:
    assert best_of_n(None, [*flags, "reward_model=parm", "parm.potential=1"]) == 0
    folder = tmp_path / "results" / "showo_parm"
    chosen = selection(folder)["images"][0]
    potentials = [one["potential"] for one in chosen["candidates"]]
    assert chosen["best"] == potentials.index(max(potentials))
    assert chosen["steps"] == 2 * CANDIDATES + STEPS
    drawn = candidates(model, flags, 0, 0)[chosen["best"]]
    assert is_same(picture(folder / "00000/samples/0000.png"), drawn)
    assert 0 < json.loads((folder / "summary.json").read_text())["steps_saved"] < 1


def test_if_none_is_ever_clear_the_finished_images_decide(
    model: Path, flags: list[str], judges: dict[str, Judge], tmp_path: Path
) -> None:
    judges["parm-clarity"].clear_from = STEPS + 1
    assert best_of_n(None, [*flags, "reward_model=parm"]) == 0
    record = selection(tmp_path / "results" / "showo_parm")
    drawn = candidates(model, flags, 0, 0)
    assert record["images"][0]["best"] == max(range(CANDIDATES), key=lambda number: redness(drawn[number]))
    assert "potential" not in record["asked"]
    assert record["asked"]["clarity"] == 2 * STEPS * CANDIDATES


def test_a_verifier_that_becomes_another_in_mid_run_is_not_heard(
    flags: list[str], judges: dict[str, Judge], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ServiceAddress.fingerprints

    def of_yesterday(service: ServiceAddress, scorers: Sequence[str]) -> dict[str, str]:
        return dict.fromkeys(told(service, scorers), "2" * 16)

    monkeypatch.setattr(ServiceAddress, "fingerprints", of_yesterday)
    assert best_of_n(None, [*flags, "reward_model=orm_zs", "retries=0"]) == 1
    failure = next((tmp_path / "results/.assay/failures").glob("*.json")).read_text()
    assert "FingerprintMismatchError" in failure


def test_every_search_reads_prompts_at_the_length_that_is_set(
    flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else candidates of one seed would not be the same whoever chooses."""
    lengths: list[object] = []
    start = ShowoPipeline.start

    def watched(pipeline: ShowoPipeline, *arguments: Any, **options: Any) -> Any:
        lengths.append(options["max_sequence_length"])
        return start(pipeline, *arguments, **options)

    monkeypatch.setattr(ShowoPipeline, "start", watched)
    for reward_model in ("orm_zs", "parm"):  # some paths are given up, and the best of them is drawn again
        settings = [f"reward_model={reward_model}", "parm.potential=1", "max_sequence_length=2"]
        assert best_of_n(None, [*flags, *settings]) == 0
    assert len(lengths) > 2 * 2 * 2 * 2
    assert set(lengths) == {2}


def test_looking_can_begin_at_a_later_step(flags: list[str], judges: dict[str, Judge], tmp_path: Path) -> None:
    assert best_of_n(None, [*flags, "reward_model=parm", "parm.first_step=3"]) == 0
    assert set(judges["parm-clarity"].steps) == {4}


@pytest.mark.parametrize("reward_model", ["orm_zs", "parm"])
def test_the_released_scripts_anneal_only_the_first_candidate_of_a_prompt(
    model: Path, flags: list[str], tmp_path: Path, reward_model: str
) -> None:
    """Also when candidates are drawn in several passes, and for a prompt's later images."""
    settings = [*flags, f"reward_model={reward_model}", "temperature_carry=true", "parm.potential=0"]
    assert best_of_n(None, settings) == 0
    folder = tmp_path / "results" / f"showo_{reward_model}" / "00000" / "process"
    for image in (0, 1):
        annealed = candidates(model, flags, 0, image)
        cold = candidates(model, flags, 0, image, temperature=0.0)
        for number in range(CANDIDATES):
            drawn = picture(folder / f"{image:04d}/{number:05d}.png")
            is_first = image == number == 0
            assert is_same(drawn, annealed[number]) == is_first
            assert is_same(drawn, cold[number]) != is_first


def test_the_folder_is_what_an_evaluation_reads(flags: list[str], metadata_file: Path, tmp_path: Path) -> None:
    assert best_of_n(None, flags) == 0
    found = read_image_folder(tmp_path / "results" / "showo")
    assert [one.line.metadata for one in found] == [json.loads(line) for line in metadata_file.read_text().splitlines()]
    assert [one.line.problem for one in found] == [None, None]
    assert [len(one.files) for one in found] == [2, 2]


def test_what_is_done_is_not_done_again_unless_the_judge_is_another(
    flags: list[str], judges: dict[str, Judge], tmp_path: Path
) -> None:
    made = tmp_path / "results/showo_parm/00000/selection.json"
    for settings, again in (([], True), ([], False), (["parm.potential=0.9"], True)):
        before = made.stat().st_mtime_ns if made.exists() else 0
        assert best_of_n(None, [*flags, "reward_model=parm", *settings]) == 0
        assert (made.stat().st_mtime_ns != before) == again


def test_a_prompt_without_an_answer_fails_alone(
    flags: list[str], judges: dict[str, Judge], metadata_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judges["orm"].refuses = [json.loads(metadata_file.read_text().splitlines()[0])["prompt"]]
    assert best_of_n(None, [*flags, "reward_model=orm_zs"]) == 1
    assert "1 done, 1 failed" in capsys.readouterr().out
    folder = tmp_path / "results" / "showo_orm_zs"
    assert not (folder / "00000").exists()
    assert (folder / "00001/samples/0001.png").exists()
    failure = next((tmp_path / "results/.assay/failures").glob("*.json")).read_text()
    assert "orm: INVALID_ARGUMENT PROMPT_TOO_LONG" in failure


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["dpo_model=dpo_itre"], r"dpo_model = 'dpo_itre'; allowed: dpo, dpo_iter, dpo_iter_parm_guide"),
        (["dpo_model=dpo"], r"dpo_models.dpo = ckpts/dpo: there is no such folder"),
        (["reward_model=orm"], r"reward_model = 'orm': .*'none', 'orm_zs', 'orm_ft' or 'parm'"),
        (["reward_model=parm", "verifiers={}"], r"reward_model = 'parm' needs verifiers.parm.targets"),
        (["reward_model=parm", "parm.potential=2"], r"parm.potential = 2: .*less than or equal to 1"),
        (["reward_model=orm_zs", "verifiers.orm_zs.outcome_scorer=arm"], r"scorer = 'arm'; allowed: orm, parm-"),
        (["reward_model=parm", "parm.first_step=5"], r"parm.first_step = 5; allowed: at most 4"),
        (["name=../elsewhere"], r"name = '../elsewhere': .*pattern"),
        (["metadata_file=null"], "give prompts_file or metadata_file"),
        (["prompts_file=prompts.txt"], r"prompts.txt has 1 prompts and .*metadata.jsonl has 2 tasks"),
        (["prompts_file=other.txt"], r"other.txt:2 says 'a photo of a kite', and .*metadata.jsonl:2 says 'a photo of"),
        (["model=miniature/weights/sd3", "temperature_carry=true"], r"temperature_carry is about Show-o; .*: false"),
        (
            ["model=miniature/weights/sd3", "reward_model=parm"],
            r"unfinished images of Show-o; .* StableDiffusion3Pipel",
        ),
    ],
)
def test_wrong_settings_are_named(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str], message: str
) -> None:
    (tmp_path / "prompts.txt").write_text("a photo of two cups\n")
    (tmp_path / "other.txt").write_text("a photo of two cups\na photo of a kite\n")
    (tmp_path / "miniature").symlink_to(Path(__file__).parents[2] / "miniature")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        best_of_n(None, [*flags, *settings])


def test_the_command_takes_the_flags_that_users_know(flags: list[str], tmp_path: Path, model: Path) -> None:
    """Prompts alone, and a tuned model in the place of the first."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a photo of two cups\n\na photo of a kite\n")
    config = tmp_path / "config.yaml"
    config.write_text(f"dpo_models: {{dpo_iter: {model}}}\ngeneration_timesteps: {STEPS}\n")
    verifiers = next(flag for flag in flags if flag.startswith("verifiers="))
    command = f"best-of-n --prompts_file {prompts} --config {config} --model elsewhere --reward_model orm_zs"
    command += f" --dpo_model dpo_iter --search_num 2 --eval_num 1 --outdir {tmp_path / 'out'}"
    result = CliRunner().invoke(app, [*command.split(), verifiers])
    assert result.exit_code == 0, result.output
    folder = tmp_path / "out" / "elsewhere_orm_zs_dpo_iter"
    assert sorted(path.name for path in folder.glob("0*")) == ["00000", "00001"]
    assert json.loads((folder / "00001/metadata.jsonl").read_text()) == {"prompt": "a photo of a kite"}


@pytest.fixture
def sd3_lora(tmp_path: Path) -> Path:
    """Of the miniature's SD3, with random weights: its images are visibly others."""
    torch.manual_seed(3)
    pipeline = sd3()
    pipeline.transformer.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["attn.to_v", "attn.to_out.0"]))
    weights = {name: torch.randn_like(one) for name, one in get_peft_model_state_dict(pipeline.transformer).items()}
    StableDiffusion3Pipeline.save_lora_weights(tmp_path / "lora", transformer_lora_layers=weights)
    return tmp_path / "lora"


def sd3(lora: Path | None = None) -> Any:
    pipeline = StableDiffusion3Pipeline.from_pretrained(SD3, dtype=torch.float32, text_encoder_3=None, tokenizer_3=None)
    pipeline.set_progress_bar_config(disable=True)
    if lora is not None:
        pipeline.load_lora_weights(lora)
    return pipeline


def sd3_candidates(flags: list[str], number: int, lora: Path | None = None) -> list[np.ndarray]:
    """Those of the first prompt's first image, each drawn alone."""
    unit, pipeline = planned(flags, 0), sd3(lora)
    return [
        np.asarray(
            pipeline(
                unit.inputs["metadata"]["prompt"],
                generator=torch.Generator().manual_seed(candidate_seed(unit, 0, candidate)),
                **SD3_SAMPLING,
            ).images[0]
        )
        for candidate in range(number)
    ]


def test_a_diffusers_model_draws_the_candidates_and_so_it_does_with_a_lora(
    flags: list[str], sd3_lora: Path, tmp_path: Path, passes: list[int]
) -> None:
    sampling = [f"{name}={value}" for name, value in SD3_SAMPLING.items() if name != "num_inference_steps"]
    flags = [*flags, f"model={SD3}", *sampling, "generation_timesteps=2", "search_num=3", "eval_num=1", "max_prompts=1"]
    kept = f"candidates={tmp_path / 'candidates'}"
    tuned = [f"dpo_models={json.dumps({'dpo': str(sd3_lora)})}", "dpo_model=dpo"]
    pictures = {}
    for name, lora, settings in (("sd3_orm_ft", None, []), ("sd3_orm_ft_dpo", sd3_lora, tuned)):
        assert best_of_n(None, [*flags, kept, "reward_model=orm_ft", *settings]) == 0
        drawn = sd3_candidates(flags, 3, lora)
        folder = tmp_path / "results" / name
        (chosen,) = selection(folder)["images"]
        assert [one["outcome"] for one in chosen["candidates"]] == pytest.approx(list(map(redness, drawn)), abs=1e-3)
        assert chosen["best"] == max(range(3), key=lambda number: redness(drawn[number]))
        assert (chosen["steps"], chosen["steps_of_all"]) == (6, 6)
        pictures[name] = picture(folder / "00000/samples/0000.png")
        assert is_same(pictures[name], drawn[chosen["best"]])
    assert not is_same(*pictures.values())
    assert sum(passes) == 3 + 3  # the LoRA takes none of the model's own candidates
    assert best_of_n(None, [*flags, kept, "reward_model=orm_zs", *tuned]) == 0
    assert sum(passes) == 3 + 3


def test_two_parts_are_the_whole(flags: list[str], tmp_path: Path) -> None:
    def files(root: Path) -> dict[str, bytes]:
        paths = [path for path in root.rglob("*") if path.is_file()]
        return {
            path.relative_to(root).as_posix(): path.read_bytes()
            for path in paths
            if not any(part.startswith(".") for part in path.relative_to(root).parts) and path.suffix != ".log"
        }

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert best_of_n(None, [*flags, "reward_model=parm", f"outdir={whole}"]) == 0
    for shard in ("1/2", "0/2"):
        assert best_of_n(None, [*flags, "reward_model=parm", f"outdir={parts}", f"shard={shard}"]) == 0
    assert files(parts) == files(whole)
    assert "showo_parm/00001/samples/0000.png" in files(whole)


def test_the_worker_travels_to_other_processes(flags: list[str]) -> None:
    settings = load_config(BestOfNSettings, None, [*flags, "reward_model=parm"])
    load = LoadBestOfNWorker(settings, "model", "lora", "digest")
    assert pickle.loads(pickle.dumps(load)) == load


@pytest.mark.parametrize("nobody", ["", None, "none"])
def test_an_empty_name_is_nobody(nobody: str | None) -> None:
    """As the scripts that users know pass `--reward_model ""`."""
    settings = BestOfNSettings.model_validate(
        {"model": "m", "metadata_file": "p.jsonl", "reward_model": nobody, "dpo_model": ""}
    )
    assert (settings.reward_model, settings.dpo_model, settings.variant) == ("none", None, "m")
