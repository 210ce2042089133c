"""Settings as dotted fields, and which of them differ between a run and what is asked of it now."""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel


def flat(values: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """(dotted field, value) of every leaf."""
    pairs = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else None
    if pairs is None:
        yield prefix, values
        return
    for key, value in pairs:
        yield from flat(value, f"{prefix}.{key}" if prefix else str(key))


def differences(theirs: dict[str, Any], mine: dict[str, Any], config: BaseModel) -> Iterable[str]:
    """Fields of which two runs' settings differ, in order.

    What an update has brought since `theirs` was written is missing there: such a run was as the default has it.

    Args:
        theirs: flat settings of a run that was begun.
        mine: flat settings of the one that is asked for; perhaps with more than the configuration's fields.
        config: the configuration that `mine` comes from.
    """
    others = dict(flat(config.model_dump(mode="json", exclude_defaults=True)))
    at_default = {field for field, _ in flat(config.model_dump(mode="json")) if field not in others}
    for field in sorted(mine.keys() | theirs.keys()):
        if mine.get(field) != theirs.get(field) and not (field in at_default and _is_unknown(field, theirs)):
            yield field


def _is_unknown(field: str, known: dict[str, Any]) -> bool:
    """Whether neither a field nor a section that it is in (which may have been null) is known."""
    parts = field.split(".")
    return not any(".".join(parts[:number]) in known for number in range(1, len(parts) + 1))
