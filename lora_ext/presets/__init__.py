"""What to set for a goal: recipes that fit the model, the pictures and the card; and the user's own presets."""

from lora_ext.presets.case import GOALS, Case, Goal, Said
from lora_ext.presets.choose import Suggestion, choose
from lora_ext.presets.own import Preset, keep, parsed, written
from lora_ext.presets.shelf import Listed, Shelf

__all__ = [
    "GOALS",
    "Case",
    "Goal",
    "Listed",
    "Preset",
    "Said",
    "Shelf",
    "Suggestion",
    "choose",
    "keep",
    "parsed",
    "written",
]
