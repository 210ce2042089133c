"""Which tokens name a class or a colour of the small world, to tell a language model what it reads of."""

from typing import Any

from miniature.glyphs import CLASSES, COLORS


def world_words(tokenizer: Any) -> dict[int, str]:
    """Class or colour by the id of a word for it: singular or plural, after a space or not."""
    forms = {f"{name}{end}": name for name in (*CLASSES, *COLORS) for end in ("", "s")}
    ids = {form: tokenizer([form, f" {form}"]).input_ids for form in forms}
    return {one[0]: forms[form] for form, both in ids.items() for one in both if len(one) == 1}
