"""From a model's name to the generator that trains it."""

from typing import Any

from assay.errors import ConfigError
from generators.flux import FluxGenerator
from generators.flux2_klein_trainable import Flux2KleinTrainable
from generators.model_index import read_model_index
from generators.sd3 import SD3Generator
from generators.text_to_image import locate_model
from generators.trainable import TrainableGenerator

#: `_class_name` of a model's `model_index.json` -> what trains it.
TRAINABLE: dict[str, type[TrainableGenerator]] = {
    "StableDiffusion3Pipeline": SD3Generator,
    "FluxPipeline": FluxGenerator,
    "Flux2KleinPipeline": Flux2KleinTrainable,
}


def load_trainable(model: str, **settings: Any) -> TrainableGenerator:
    """Load a hub id or a local folder as its class wants.

    Args:
        model: folder in the hub's layout, or a name on the hub, whose files are then downloaded.
        settings: the keyword arguments of `TrainableGenerator.from_pretrained`.

    Raises:
        ConfigError: it cannot be found or loaded, is of a class that cannot be trained here, or a setting does not fit.
    """
    folder = locate_model(model)
    assert folder is not None
    name = read_model_index(folder).get("_class_name")
    if name not in TRAINABLE:
        raise ConfigError(
            f"model = {model!r} holds a {name or 'folder without model_index.json'}; allowed: {', '.join(TRAINABLE)}"
        )
    return TRAINABLE[name].from_pretrained(folder, **settings)
