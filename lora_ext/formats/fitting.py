"""Whether a file's tensors have the sizes that a layer asks for, told without their numbers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lora_ext.adapters import adapter_for, split_bias
from lora_ext.errors import BadInput
from lora_ext.formats.dialects import as_adapters_read
from lora_ext.formats.found import Found
from lora_ext.formats.peft_config import PeftSettings
from lora_ext.layers import Layer, LayerName

PLAIN = PeftSettings({}, "")
SWITCH = "on_input"
INPUT = LayerName("unet", "input_blocks.0.0")
INPUT_CHANNELS = (4, 8, 9)
"""What the first convolution takes in: the latents; with InstructPix2Pix's picture; with an inpainting model's."""


def could_fit(found: Found) -> bool:
    """Whether some numbers in tensors of these shapes make an adapter for the layer. Biases are not looked at."""
    ones = {name: torch.ones(tensor.shape).to(tensor.dtype) for name, tensor in found.tensors.items()}
    if SWITCH not in ones:
        return _fits(found, ones)
    return any(_fits(found, {**ones, SWITCH: torch.tensor(on)}) for on in (0, 1))


def of_another_input(layer: Layer, weight: Mapping[str, Tensor]) -> bool:
    """Whether these are whole tensors for the first convolution of a model that takes in something else.

    So are the files of inpainting models on plain ones. All other layers of such models are alike, and fit.
    """
    if layer.name != INPUT or _makes(weight, layer.shape):
        return False
    out, _, *kernel = layer.shape
    return any(_makes(weight, (out, channels, *kernel)) for channels in INPUT_CHANNELS)


def _fits(found: Found, tensors: dict[str, Tensor]) -> bool:
    try:
        weight, bias = split_bias(as_adapters_read(found.prefix, found.layer, tensors, PLAIN))
    except BadInput:
        return False
    return _makes(weight, found.layer.shape) if weight else bool(bias)


def _makes(weight: Mapping[str, Tensor], shape: tuple[int, ...]) -> bool:
    try:
        adapter_for(weight, shape)
    except BadInput:
        return False
    return True
