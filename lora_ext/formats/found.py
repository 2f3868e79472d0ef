"""What a network file has for one layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lora_ext.layers import Layer


@dataclass
class Found:
    """One layer's tensors: canonical name -> tensor, and the names they have in the file.

    `prefix` is what the file calls the layer.
    """

    layer: Layer
    prefix: str
    tensors: dict[str, Tensor]
    keys: dict[str, str]
