"""Whether a file's tensors have the sizes that a layer asks for, told without their numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from lora_ext.adapters import adapter_for, split_bias
from lora_ext.errors import BadInput
from lora_ext.formats.dialects import as_adapters_read
from lora_ext.formats.found import Found
from lora_ext.formats.peft_config import PeftSettings

PLAIN = PeftSettings({}, "")
SWITCH = "on_input"


def could_fit(found: Found) -> bool:
    """Whether some numbers in tensors of these shapes make an adapter for the layer. Biases are not looked at."""
    ones = {name: torch.ones(tensor.shape).to(tensor.dtype) for name, tensor in found.tensors.items()}
    if SWITCH not in ones:
        return _fits(found, ones)
    return any(_fits(found, {**ones, SWITCH: torch.tensor(on)}) for on in (0, 1))


def _fits(found: Found, tensors: dict[str, Tensor]) -> bool:
    try:
        weight, bias = split_bias(as_adapters_read(found.prefix, found.layer, tensors, PLAIN))
        if weight:
            adapter_for(weight, found.layer.shape)
    except BadInput:
        return False
    return bool(weight or bias)
