"""Write wide scenes of the small world to disk as the x3 spatial tasks' data, and the exact truth beside it.

    python -m miniature.x3 --root runs/x3 --scenes 60 --seed 0

{split}/{scene}/uid_{uid}/       an object of a scene, in five views of its own; splits are `train` and `validation`
    01_{frame}_original.png      what the camera sees; views 01 to 05
    01_{frame}_inpainted.png     the same without the object
    01_{frame}_mask.png          white where the object is; black where it is out of view
    01_{frame}_mask_dialated.png the mask, grown by two pixels (the name is the data's own)
truth.jsonl                      a line a view: what the object is, whether it is visible, its box, the camera

The first view shows the object as a whole; each of the others misses it with a chance of one fifth. A scene is drawn
from the seed and its number alone, so that more scenes change none.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from assay.files import write_whole
from miniature.world import WorldObject
from miniature.x3_scenes import Camera, WideScene, dilate, mask_in_view, sample_camera, sample_wide_scene

VIEWS = 5
OBJECTS = 4  # of a scene that become a uid
MISSING_SHARE = 0.2
VALIDATION_EVERY = 5  # of five scenes the last is for validation
FIRST_SEED = 4 * 10**9  # recipes draw from seeds below three billion, planned edits from there on


@dataclass(frozen=True)
class ObjectView:
    """One view of one object.

    Args:
        number: of the view, from 1.
        frame: six digits, the camera's place among all of the scene.
        camera: where it looks from.
        scene: with the object in it.
        item: the object, in world pixels.
    """

    number: int
    frame: str
    camera: Camera
    scene: WideScene
    item: WorldObject

    @property
    def mask(self) -> NDArray[np.bool_]:
        return mask_in_view(self.camera.see(self.item))

    def pictures(self) -> dict[str, NDArray[np.uint8]]:
        """Ending of the file's name -> pixels."""
        mask = self.mask
        return {
            "original": self.scene.render(self.camera),
            "inpainted": self.scene.without(self.item).render(self.camera),
            "mask": mask.astype(np.uint8) * 255,
            "mask_dialated": dilate(mask).astype(np.uint8) * 255,
        }

    def truth(self) -> dict[str, Any]:
        """What is known of it."""
        rows, columns = np.nonzero(self.mask)
        box = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1] if len(rows) else None
        return {
            "view": self.number,
            "frame": self.frame,
            "class": self.item.class_name,
            "color": self.item.color,
            "unique": self.scene.is_unique(self.item),
            "visible": box is not None,
            "box": box,
            "camera": {"left": self.camera.left, "top": self.camera.top, "zoom": self.camera.zoom},
        }


def sample_views(scene: WideScene, item: WorldObject, first_frame: int, rng: np.random.Generator) -> list[ObjectView]:
    """Five views of an object; the first sees all of it."""
    views = []
    for number in range(1, VIEWS + 1):
        sees = number == 1 or rng.random() >= MISSING_SHARE
        camera = sample_camera(item, rng, sees=sees, wholly=number == 1)
        views.append(ObjectView(number, f"{10 * (first_frame + number):06d}", camera, scene, item))
    return views


def sample_uids(seed: int, number: int) -> Iterator[tuple[str, list[ObjectView]]]:
    """(uid, views) of the objects of the scene of that number."""
    rng = np.random.default_rng([FIRST_SEED, seed, number])
    scene = sample_wide_scene(rng)
    for count, index in enumerate(sorted(rng.choice(len(scene.objects), OBJECTS, replace=False))):
        yield str(index), sample_views(scene, scene.objects[index], count * VIEWS, rng)


def split_of(number: int) -> str:
    return "validation" if number % VALIDATION_EVERY == VALIDATION_EVERY - 1 else "train"


def write_x3(root: Path, scenes: int, seed: int) -> None:
    """Write `scenes` scenes; the same arguments always write the same files."""
    lines = []
    for number in tqdm(range(scenes), desc="x3 scenes", unit="scene"):
        split, name = split_of(number), f"scene{number:04d}"
        for uid, views in sample_uids(seed, number):
            folder = root / split / name / f"uid_{uid}"
            folder.mkdir(parents=True, exist_ok=True)
            for view in views:
                for ending, pixels in view.pictures().items():
                    Image.fromarray(pixels).save(folder / f"{view.number:02d}_{view.frame}_{ending}.png")
                where = {"split": split, "scene": name, "uid": uid}
                lines.append(json.dumps({**where, **view.truth()}) + "\n")
    write_whole(root / "truth.jsonl", "".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_x3(args.root, args.scenes, args.seed)
    print(f"{args.scenes} scenes of {OBJECTS} objects in {args.root}")


if __name__ == "__main__":
    main()
