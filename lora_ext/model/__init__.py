"""Checkpoint tensors -> architecture, layer table, diffusers / transformers modules over the same storage.

What needs diffusers or transformers is imported when it is first asked for: a WebUI starts without waiting for them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from lora_ext.model.architecture import Architecture, Hints, PredictionType, TextShape, UNetShape, VaeShape
from lora_ext.model.detection import detect
from lora_ext.model.hints import hints_from_yaml
from lora_ext.model.table import default_targets, layer_table, module_of
from lora_ext.model.tokenizer import Tokenizer, Tokens

if TYPE_CHECKING:
    from lora_ext.model.images import build_unet, build_vae, checkpoint_gradients
    from lora_ext.model.text import Conditioning, TextEncoders, added_conditioning, build_text

_LATER = {
    "build_unet": "lora_ext.model.images",
    "build_vae": "lora_ext.model.images",
    "checkpoint_gradients": "lora_ext.model.images",
    "Conditioning": "lora_ext.model.text",
    "TextEncoders": "lora_ext.model.text",
    "added_conditioning": "lora_ext.model.text",
    "build_text": "lora_ext.model.text",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)


__all__ = [
    "Architecture",
    "Conditioning",
    "Hints",
    "PredictionType",
    "TextEncoders",
    "TextShape",
    "Tokenizer",
    "Tokens",
    "UNetShape",
    "VaeShape",
    "added_conditioning",
    "build_text",
    "build_unet",
    "build_vae",
    "checkpoint_gradients",
    "default_targets",
    "detect",
    "hints_from_yaml",
    "layer_table",
    "module_of",
]
