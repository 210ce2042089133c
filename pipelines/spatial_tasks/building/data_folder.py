"""The x3 data on disk: `{split}/{scene}/uid_{uid}/01_{frame}_original.png` and, beside it, `_inpainted`, `_mask` and
`_mask_dialated`; five views each. What is missing is said, and nothing is left out in silence."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from assay.errors import ConfigError

VIEWS = range(1, 6)
#: split, as files are named -> names of its folder; data of either name are read.
SPLITS = {"train": ("train",), "val": ("validation", "val")}


@dataclass(frozen=True)
class ViewFiles:
    """The files of one view.

    Args:
        number: from 1.
        frame: as the file's name has it.
        original: what the camera saw.
        inpainted: without the object; None if it is missing.
        mask: the wanted one, or the other kind where that is missing.
    """

    number: int
    frame: str
    original: Path
    inpainted: Path | None
    mask: Path

    @property
    def files(self) -> list[Path]:
        return [path for path in (self.original, self.inpainted, self.mask) if path is not None]


@dataclass(frozen=True)
class ObjectFolder:
    """One object of a scene.

    Args:
        split: `train` or `val`.
        folder: name of the split's folder.
        scene: its id.
        uid: the object's.
        views: those that are complete, by number.
        problems: what is missing, in words.
    """

    split: str
    folder: str
    scene: str
    uid: str
    views: tuple[ViewFiles, ...]
    problems: tuple[str, ...]

    @property
    def scene_folder(self) -> str:
        return f"{self.folder}/{self.scene}"


def read_data_folder(root: Path, *, dilated: bool) -> list[ObjectFolder]:
    """All objects: train before validation, scenes and uids sorted by name.

    Args:
        root: of the data.
        dilated: take `_mask_dialated` before `_mask`, else the other way round.

    Raises:
        ConfigError: there is no object at all, or a split has two folders.
    """
    objects = []
    for split, names in SPLITS.items():
        found = [name for name in names if (root / name).is_dir()]
        if len(found) > 1:
            raise ConfigError(f"data_root = {root} holds both {' and '.join(found)}; allowed: one of them")
        objects += [one for name in found for one in _objects(root / name, split, dilated)]
    if not objects:
        raise ConfigError(
            f"data_root = {root}: there is no object in it; allowed: a folder with "
            "{split}/{scene}/uid_{uid}, where split is train, validation or val"
        )
    return objects


def _objects(folder: Path, split: str, dilated: bool) -> Iterator[ObjectFolder]:
    for scene in _folders(folder):
        for path in _folders(scene):
            if path.name.startswith("uid_"):
                uid = path.name.removeprefix("uid_")
                yield ObjectFolder(split, folder.name, scene.name, uid, *_views(path, dilated))


def _views(folder: Path, dilated: bool) -> tuple[tuple[ViewFiles, ...], tuple[str, ...]]:
    views, problems = [], []
    names = sorted(path.name for path in folder.iterdir())
    for number in VIEWS:
        originals = [name for name in names if name.startswith(f"{number:02d}_") and name.endswith("_original.png")]
        if not originals:
            problems.append(f"view {number:02d}: there is no {number:02d}_*_original.png")
            continue
        if len(originals) > 1:
            problems.append(f"view {number:02d}: {len(originals)} files are its original; {originals[0]} is taken")
        stem = originals[0].removesuffix("_original.png")
        endings = ("_mask_dialated.png", "_mask.png") if dilated else ("_mask.png", "_mask_dialated.png")
        masks = [f"{stem}{ending}" for ending in endings if f"{stem}{ending}" in names]
        if not masks:
            problems.append(f"view {number:02d}: there is no {stem}_mask_dialated.png and no {stem}_mask.png; left out")
            continue
        if not masks[0].endswith(endings[0]):
            problems.append(f"view {number:02d}: there is no {stem}{endings[0]}; {masks[0]} is taken")
        inpainted = f"{stem}_inpainted.png"
        if inpainted not in names:
            problems.append(f"view {number:02d}: there is no {inpainted}; no difference is asked for")
        views.append(
            ViewFiles(
                number,
                frame=stem.partition("_")[2],
                original=folder / originals[0],
                inpainted=folder / inpainted if inpainted in names else None,
                mask=folder / masks[0],
            )
        )
    return tuple(views), tuple(problems)


def _folders(path: Path) -> list[Path]:
    return sorted(one for one in path.iterdir() if one.is_dir() and not one.name.startswith("."))
