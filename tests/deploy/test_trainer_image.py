"""trainer/Dockerfile, read: what it holds is enough to start from."""

from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_the_image_holds_the_generator_that_each_miniature_configuration_starts_from() -> None:
    copied = {line.split()[1] for line in (ROOT / "trainer/Dockerfile").read_text().splitlines() if "COPY mini" in line}
    models = {
        path.stem: yaml.safe_load(path.read_text())["model"] for path in ROOT.glob("configs/train/miniature_*.yaml")
    }
    generators = {name: model["path"] for name, model in models.items() if isinstance(model, dict)}
    assert len(generators) > 15
    assert {name: path for name, path in generators.items() if path not in copied} == {}
