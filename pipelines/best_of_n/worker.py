"""Does a unit: draws a prompt's candidates, has the best chosen, and writes them in GenEval's own layout.

samples/0000.png ...       the images chosen
metadata.jsonl             the task
selection.json             what was asked and answered of each candidate
process/0000/00000.png     the candidates' last images, where they are kept
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from assay.errors import ConfigError
from generators.model_index import read_model_index
from generators.precision import weights_dtype
from generators.showo.pipeline import ShowoPipeline
from generators.text_to_image import TextToImage, load_pipeline
from pipelines.best_of_n.kept_candidates import KeptCandidates
from pipelines.best_of_n.outcome import Choice, OutcomeSearch
from pipelines.best_of_n.plan import candidate_seed, sampling_arguments
from pipelines.best_of_n.potential import PotentialSearch
from pipelines.best_of_n.settings import BestOfNSettings
from pipelines.best_of_n.verifier import Verifier
from pipelines.engine.stage import UnitError, Workplace
from pipelines.engine.unit import Unit
from pipelines.reward_service import ServiceAddress

FILE = "selection.json"


class BestOfNWorker:
    """Keeps a model loaded and a verifier connected.

    Args:
        search: draws candidates and chooses.
        verifier: None where the first candidate is taken.
    """

    def __init__(self, search: OutcomeSearch | PotentialSearch, verifier: Verifier | None) -> None:
        self._search = search
        self._verifier = verifier

    def close(self) -> None:
        if self._verifier is not None:
            self._verifier.close()

    def run(self, unit: Unit, workplace: Workplace) -> None:
        if unit.locations["problem"]:
            raise UnitError(unit.locations["problem"])
        metadata = unit.inputs["metadata"]
        if self._verifier is not None:
            self._verifier.begin(unit.inputs["verifier"])
        candidates = range(unit.inputs.get("num_candidates", 1))
        images = range(unit.inputs["num_images"])
        seeds = [[candidate_seed(unit, image, candidate) for candidate in candidates] for image in images]
        choices = self._search.choose(metadata, seeds)
        for image, choice in enumerate(choices):
            _save(choice, image, workplace.folder, all_candidates=unit.inputs["keep_candidates"])
        asked = {} if self._verifier is None else dict(self._verifier.asked)
        record = {"images": [_record(choice) for choice in choices], "asked": asked}
        (workplace.folder / FILE).write_text(json.dumps(record, indent=1) + "\n")
        (workplace.folder / "metadata.jsonl").write_text(json.dumps(metadata) + "\n")


def _save(choice: Choice, image: int, folder: Path, *, all_candidates: bool) -> None:
    (folder / "samples").mkdir(exist_ok=True)
    Image.fromarray(choice.pictures[choice.best]).save(folder / "samples" / f"{image:04d}.png")
    if all_candidates:
        process = folder / "process" / f"{image:04d}"
        process.mkdir(parents=True)
        for number, picture in choice.pictures.items():
            Image.fromarray(picture).save(process / f"{number:05d}.png")


def _record(choice: Choice) -> dict[str, Any]:
    return {
        "best": choice.best,
        "steps": choice.steps,
        "steps_of_all": choice.steps_of_all,
        "candidates": [choice.judgements[number] for number in sorted(choice.judgements)],
    }


@dataclass(frozen=True)
class LoadBestOfNWorker:
    """Makes a worker on a device, in whatever process.

    Args:
        settings: of the run.
        model: folder of what draws.
        lora: on top of it.
        model_digest: of both.
    """

    settings: BestOfNSettings
    model: str
    lora: str | None
    model_digest: str

    def __call__(self, device: str) -> BestOfNWorker:
        settings = self.settings
        pipeline: Any = load_pipeline(self.model, device, weights_dtype(settings.dtype), self.lora)
        pipeline.set_progress_bar_config(disable=True)
        verifier = None
        if (scorers := settings.verifier) is not None:
            verifier = Verifier(service_of(settings).connect(), scorers)
        if settings.reward_model == "parm":
            assert verifier is not None
            sampling = pipeline.sampling_settings(
                settings.generation_timesteps, settings.guidance_scale, temperature_carry=settings.temperature_carry
            )
            if settings.parm.first_step >= sampling.num_steps:
                raise ConfigError(
                    f"parm.first_step = {settings.parm.first_step}; allowed: at most {sampling.num_steps - 1}, "
                    "the sampler's last step"
                )
            search = PotentialSearch(
                pipeline,
                verifier,
                sampling,
                settings.parm,
                settings.batch_size,
                pipeline.grid(settings.height, settings.width),
                settings.max_sequence_length,
            )
            return BestOfNWorker(search, verifier)
        # 0, unknown, where neither the run nor the model's folder says it.
        num_steps = settings.generation_timesteps or int(pipeline.config.get("num_inference_steps") or 0)
        arguments = sampling_arguments(settings)
        model = TextToImage(pipeline, arguments)
        kept = None
        if settings.candidates is not None:
            drawn_by = {"model": self.model_digest, "dtype": settings.dtype, **arguments}
            kept = KeptCandidates(model, settings.candidates, drawn_by)
        return BestOfNWorker(
            OutcomeSearch(kept or model, verifier, num_steps, settings.batch_size, settings.temperature_carry), verifier
        )


def service_of(settings: BestOfNSettings) -> ServiceAddress:
    """Where the verifier that chooses is served."""
    assert settings.verifier is not None
    return ServiceAddress(settings.verifier.targets, settings.deadline_s, settings.tls_files)


def check_is_showo_where_it_must_be(settings: BestOfNSettings, model: str) -> None:
    """PARM looks at unfinished images, which only Show-o's sampler gives; and only its scripts carried a temperature.

    Raises:
        ConfigError: the model is another.
    """
    name = read_model_index(model).get("_class_name")
    if name == ShowoPipeline.__name__:
        return
    if settings.reward_model == "parm":
        raise ConfigError(
            f"reward_model = 'parm' looks at unfinished images of Show-o; model = {model!r} holds a {name}; allowed "
            "with it: none, orm_zs, orm_ft"
        )
    if settings.temperature_carry:
        raise ConfigError(f"temperature_carry is about Show-o; model = {model!r} holds a {name}; allowed: false")
