"""Changing live weights and undoing it, exactly."""

from lora_ext.patching.patcher import ApplyReport, WeightPatcher
from lora_ext.patching.precision import exact_float32
from lora_ext.patching.recipe import Strengths
from lora_ext.patching.weight_file import Identity, Slot, WeightFile, identity_of

__all__ = [
    "ApplyReport",
    "Identity",
    "Slot",
    "Strengths",
    "WeightFile",
    "WeightPatcher",
    "exact_float32",
    "identity_of",
]
