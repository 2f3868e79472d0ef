"""Changing live weights and undoing it, exactly."""

from lora_ext.patching.patcher import ApplyReport, WeightPatcher
from lora_ext.patching.precision import exact_float32
from lora_ext.patching.recipe import Strengths

__all__ = ["ApplyReport", "Strengths", "WeightPatcher", "exact_float32"]
