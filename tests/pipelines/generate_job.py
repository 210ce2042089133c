"""A planner's folder of a few samples on a tiny pipeline, and runs of `assay generate` over it."""

import json
from pathlib import Path
from typing import Any

from tiny_klein import write_planner

from pipelines.generate.command import generate

INSTRUCTIONS = [["add a cup"], ["add a kite", "remove the cup", "paint it red"], [], ["move it"], ["a", "b"]]
VARIANT = "toy/planner/flux2-klein-4B"


class Job:
    """A planner's folder, and runs over it."""

    def __init__(self, root: Path, checkpoint: Path) -> None:
        self.root, self.checkpoint = root, checkpoint
        self.records = write_planner(root, INSTRUCTIONS)

    def run(self, *overrides: str, output: str = "out") -> int:
        return generate(
            None,
            [
                "planning_model=planner",
                f"flux_ckpt={self.checkpoint}",
                f"predicted_instructions_root={self.root}/predicted_instructions",
                f"data_root={self.root}",
                f"output_root={self.root}/{output}",
                "num_inference_steps=2",
                *overrides,
            ],
        )

    def tree(self, output: str = "out") -> dict[str, bytes]:
        """What users see: every file but hidden ones and logs, with its content."""
        root = self.root / output
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)
            if path.name != "run.log"
        }

    def folder(self, id: int, output: str = "out") -> Path:
        return self.root / output / VARIANT / str(id)

    def reference(self, id: int) -> Path:
        return self.root / "datasets/images" / f"{id}.png"

    def edit(self, line: int, **values: Any) -> None:
        lines = [json.loads(line) for line in self.records.read_text().splitlines()]
        lines[line].update(values)
        self.records.write_text("".join(json.dumps(values) + "\n" for values in lines))
