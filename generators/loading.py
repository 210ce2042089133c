"""From a model's name to the generator that trains it."""

from typing import Any, TypeVar, overload

from assay.errors import ConfigError
from generators.flux import FluxGenerator
from generators.flux2_klein_trainable import Flux2KleinTrainable
from generators.model_index import read_model_index
from generators.opened import OpenedPipeline
from generators.sd3 import SD3Generator
from generators.showo.trainable import ShowoGenerator
from generators.text_to_image import locate_model
from generators.trainable import TrainableGenerator

#: `_class_name` of a model's `model_index.json` -> what trains it.
TRAINABLE: dict[str, type[TrainableGenerator] | type[ShowoGenerator]] = {
    "StableDiffusion3Pipeline": SD3Generator,
    "FluxPipeline": FluxGenerator,
    "Flux2KleinPipeline": Flux2KleinTrainable,
    "ShowoPipeline": ShowoGenerator,
}

Kind = TypeVar("Kind", bound=OpenedPipeline)


@overload
def load_trainable(model: str, **settings: Any) -> TrainableGenerator: ...
@overload
def load_trainable(model: str, kind: type[Kind], **settings: Any) -> Kind: ...
def load_trainable(model: str, kind: type[Any] = TrainableGenerator, **settings: Any) -> Any:
    """Load a hub id or a local folder as its class wants.

    Args:
        model: folder in the hub's layout, or a name on the hub, whose files are then downloaded.
        kind: how it must draw: with a velocity (`TrainableGenerator`), or by masked tokens (`ShowoGenerator`).
        settings: the keyword arguments of the kind's `from_pretrained`.

    Raises:
        ConfigError: it cannot be found or loaded, is of a class that cannot be trained so, or a setting does not fit.
    """
    folder = locate_model(model)
    assert folder is not None
    name = read_model_index(folder).get("_class_name")
    allowed = {own: trained for own, trained in TRAINABLE.items() if issubclass(trained, kind)}
    if name not in allowed:
        raise ConfigError(
            f"model = {model!r} holds a {name or 'folder without model_index.json'}; allowed: {', '.join(allowed)}"
        )
    return allowed[name].from_pretrained(folder, **settings)
