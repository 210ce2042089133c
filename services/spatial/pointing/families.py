"""The families by the names that the configuration has for them."""

from typing import Literal

from services.spatial.pointing import florence2, gemini, glm, internvl, molmo2, qwen2_5_vl, qwen3_vl, roborefer
from services.spatial.pointing.answer import Family

FamilyName = Literal["roborefer", "qwen3_vl", "qwen2_5_vl", "glm", "internvl", "molmo2", "gemini", "florence2"]

FAMILIES: dict[FamilyName, Family] = {
    "roborefer": roborefer.FAMILY,
    "qwen3_vl": qwen3_vl.FAMILY,
    "qwen2_5_vl": qwen2_5_vl.FAMILY,
    "glm": glm.FAMILY,
    "internvl": internvl.FAMILY,
    "molmo2": molmo2.FAMILY,
    "gemini": gemini.FAMILY,
    "florence2": florence2.FAMILY,
}
