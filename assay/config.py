"""Settings: YAML file, then environment, then command line; checked by pydantic, with errors one can act on.

    configs/train/x.yaml           learning_rate: 1.0e-4
    ASSAY_LEARNING_RATE=2e-4       nested fields with two underscores: ASSAY_SAMPLING__NUM_STEPS=20
    learning_rate=3e-4             nested fields with dots: sampling.num_steps=20

The later wins. Values are read as YAML, so `a=[1, 2]`, `a=null` and `a={b: 3}` work. Environment variables that name
no field of the model at their first level are left alone, for other programs use the prefix too (`ASSAY_TOKEN`);
anything else that is unknown is an error.
"""

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from assay.errors import ConfigError


class ConfigModel(BaseModel):
    """Base of all settings: unknown fields are refused, and settings do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


M = TypeVar("M", bound=BaseModel)


def load_config(
    model_class: type[M],
    path: Path | str | None,
    overrides: Sequence[str] = (),
    env_prefix: str = "ASSAY_",
    environment: Mapping[str, str] | None = None,
) -> M:
    """Read and validate settings.

    Args:
        model_class: what to build; derive it, and all models nested in it, from `ConfigModel`.
        path: YAML file, or None to start from the defaults.
        overrides: `field=value` strings, applied in order.
        env_prefix: prefix of the environment variables that are looked at.
        environment: instead of `os.environ`.

    Raises:
        ConfigError: names the file, the field, its value and what is allowed.
    """
    values = _read_yaml(Path(path)) if path is not None else {}
    for field_path, text in _from_environment(model_class, env_prefix, environment or os.environ):
        _assign(values, field_path, _parse(text, ".".join(field_path)))
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator or not name:
            raise ConfigError(f"{override!r} is not of the form field=value", reason="OVERRIDE_MALFORMED")
        _assign(values, name.split("."), _parse(text, name))
    try:
        return model_class.model_validate(values)
    except ValidationError as error:
        raise ConfigError(describe(error, model_class, str(path or "settings")), reason="CONFIG_INVALID") from None


def describe(error: ValidationError, model_class: type[BaseModel], source: str) -> str:
    """One line for each thing wrong: where, what value, what is allowed."""
    lines = []
    for problem in error.errors(include_url=False):
        location, fields = _walk(model_class, problem["loc"])
        field = ".".join(location)
        if problem["type"] == "extra_forbidden":
            lines.append(f"{source}: unknown field {field} {_suggestion(location[-1], fields)}")
        elif problem["type"] == "missing":
            lines.append(f"{source}: {field} is missing")
        elif problem["type"] == "union_tag_not_found":
            lines.append(f"{source}: {field}.{problem['ctx']['discriminator'].strip(chr(39))} is missing")
        elif location:
            lines.append(f"{source}: {field} = {problem['input']!r}: {problem['msg']}")
        else:  # what is wrong is how fields go together; the message names them
            lines.append(f"{source}: {problem['msg'].removeprefix('Value error, ')}")
    return "\n".join(lines)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", reason="CONFIG_UNREADABLE") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}", reason="CONFIG_UNREADABLE") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold fields with values, not a {type(values).__name__}")
    return values


def _from_environment(
    model_class: type[BaseModel], prefix: str, environment: Mapping[str, str]
) -> list[tuple[list[str], str]]:
    found = []
    for name in sorted(environment):
        field_path = name.removeprefix(prefix).lower().split("__")
        if name.startswith(prefix) and field_path[0] in model_class.model_fields:
            found.append((field_path, environment[name]))
    return found


def _parse(text: str, field: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{field} = {text!r} is not valid YAML", reason="OVERRIDE_MALFORMED") from error


def _assign(values: dict[str, Any], field_path: Sequence[str], value: Any) -> None:
    """Set a nested field. Indices of lists are numbers: `rewards.0.weight=2`."""
    holder: Any = values
    for depth, name in enumerate(field_path[:-1]):
        if isinstance(holder, list):
            holder = _element(holder, field_path, depth)
        else:
            if holder.get(name) is None:
                holder[name] = {}
            holder = holder[name]
        if not isinstance(holder, dict | list):
            taken = ".".join(field_path[: depth + 1])
            raise ConfigError(f"{'.'.join(field_path)}: {taken} = {holder!r} has no fields", reason="CONFIG_INVALID")
    if isinstance(holder, list):
        _element(holder, field_path, len(field_path) - 1)
        holder[int(field_path[-1])] = value
    else:
        holder[field_path[-1]] = value


def _element(holder: list[Any], field_path: Sequence[str], depth: int) -> Any:
    index = field_path[depth]
    if not index.isdigit() or int(index) >= len(holder):
        where = ".".join(field_path[:depth])
        raise ConfigError(f"{where} has {len(holder)} entries; {index!r} is not the index of one")
    return holder[int(index)]


def _suggestion(name: str, fields: Sequence[str]) -> str:
    if not fields:
        return ""
    close = difflib.get_close_matches(name, fields, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"({hint}allowed: {', '.join(sorted(fields))})"


def _walk(model_class: type[BaseModel], location: Sequence[int | str]) -> tuple[list[str], list[str]]:
    """The field that pydantic's `location` means, as users write it, and the names of the fields beside it.

    Where one of several models is chosen by a field (`algorithm.name`), pydantic puts the choice into the location.
    """
    written: list[str] = []
    models: list[type[BaseModel]] = [model_class]
    beside: list[str] = []
    for part in location:
        chosen = [model for model in models if len(models) > 1 and _is_chosen_by(model, part)]
        if chosen:
            models = chosen
            continue
        written.append(str(part))
        if isinstance(part, int):
            continue
        beside = list(models[0].model_fields) if len(models) == 1 else []
        field = models[0].model_fields.get(part) if len(models) == 1 else None
        models = _models_in(field.annotation) if field is not None else []
    return written, beside


def _is_chosen_by(model: type[BaseModel], tag: int | str) -> bool:
    return any(tag in getattr(field.annotation, "__args__", ()) for field in model.model_fields.values())


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The model classes in `Model`, `Model | None`, `list[Model]` and the like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in _models_in(argument)]
