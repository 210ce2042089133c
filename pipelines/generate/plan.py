"""A unit of work for each sample: what decides its images, and where they go. And one for the scores of its images."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path

from assay.files import digest_file
from pipelines.engine.unit import Unit
from pipelines.generate.records import Record
from pipelines.generate.settings import GenerateSettings

STAGE = "generate"
SCORE_STAGE = "spatial"
SCORER = "relation"
#: Where scores are published: not in the samples' folders, which are published whole with the images.
SCORES_FOLDER = ".spatial_scores"


def plan_units(
    records: Iterable[Record], settings: GenerateSettings, planning_model: str, checkpoint_digest: str
) -> list[Unit]:
    """One unit a record. A reference that is missing is left to the unit, which fails for it alone."""
    digest = cache(digest_if_there)
    units = []
    for record in records:
        variant = f"{record.dataset}/{planning_model}/{generation_model(settings)}"
        paths = [resolve(settings.data_root, path) for path in record.image_paths]
        unit = Unit(
            item=str(record.id),
            variant=variant,
            stage=STAGE,
            folder=f"{variant}/{record.id}",
            inputs={
                "id": record.id,
                "instructions": list(record.instructions),
                "references": [digest(path) for path in paths],
                "checkpoint": checkpoint_digest,
                "num_inference_steps": settings.num_inference_steps,
                "height": settings.height,
                "width": settings.width,
                "guidance_scale": settings.guidance_scale,
                "seed": settings.seed,
                "dtype": settings.dtype,
            },
            locations={"image_paths": list(record.image_paths), "references": [str(path) for path in paths]},
        )
        units.append(unit)
    return units


def plan_scores(records: Sequence[Record], images: Sequence[Unit], fingerprint: str) -> list[Unit]:
    """One unit for each record of which a relation is told.

    Args:
        records: of which the others are left alone.
        images: the unit of each record's images.
        fingerprint: of the scorer.
    """
    return [
        Unit(
            item=unit.item,
            variant=unit.variant,
            stage=SCORE_STAGE,
            folder=f"{SCORES_FOLDER}/{unit.folder}",
            inputs={
                "id": record.id,
                "relations": [None if one is None else asdict(one) for one in record.relations],
                "fingerprint": fingerprint,
            },
            locations=unit.locations,
            needs=(unit,),
        )
        for record, unit in zip(records, images, strict=True)
        if record.relations is not None
    ]


def generation_model(settings: GenerateSettings) -> str:
    """The checkpoint's name in the output tree."""
    return Path(settings.flux_ckpt).absolute().name  # as it was called, also where that is a link


def resolve(data_root: Path, path: str) -> Path:
    """Where a record's image is: at `path`, or with the folder `dataset` of it read as `datasets`."""
    there = data_root / path
    if there.exists():
        return there.resolve()
    renamed = data_root / Path(*("datasets" if part == "dataset" else part for part in Path(path).parts))
    return (renamed if renamed.exists() else there).resolve()


def digest_if_there(path: Path) -> str | None:
    """SHA-256 of a file; None if it cannot be read."""
    try:
        return digest_file(path)
    except OSError:  # missing, a folder, not readable: the unit says so when it comes to it
        return None
