"""The words all rooms share: what a layer is and what it is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

Family = Literal["sd1", "sd2", "sdxl"]
Component = Literal["unet", "te1", "te2"]
Op = Literal["linear", "conv", "norm", "embedding", "bias"]

BIAS = ".bias"
"""How the path of a bias ends; what stands before it is the layer it belongs to."""

FAMILY_TITLES: Mapping[Family, str] = {"sd1": "SD 1.x", "sd2": "SD 2.x", "sdxl": "SDXL"}


@dataclass(frozen=True, order=True)
class LayerName:
    """Canonical name: component plus dotted path, without `.weight`.

    UNet paths are those of the original checkpoint below `model.diffusion_model.`
    (`input_blocks.1.1.transformer_blocks.0.attn1.to_q`); text encoder paths are Hugging Face's
    (`text_model.encoder.layers.0.self_attn.q_proj`), for OpenCLIP too. A bias is a layer of its own, named after its
    owner plus `.bias`.
    """

    component: Component
    path: str

    @property
    def bias(self) -> LayerName:
        """The name of this layer's bias."""
        return LayerName(self.component, self.path + BIAS)

    @property
    def owner(self) -> LayerName:
        """The layer whose bias this is; a layer that is no bias is its own owner."""
        return LayerName(self.component, self.path.removesuffix(BIAS))

    def __str__(self) -> str:
        return f"{self.component}:{self.path}"


@dataclass(frozen=True)
class Layer:
    """A weight or a bias of the model that an adapter can change.

    `key` names the checkpoint tensor that holds it, `rows` the half-open range on axis 0 when that tensor is fused
    (OpenCLIP's `in_proj_weight`), `shape` the shape of the layer's own weight, `module` the dotted path of the module
    inside the diffusers UNet (`down_blocks.0.attentions.0.proj_in`) or the transformers text model; of a bias, that of
    its parameter (`down_blocks.0.attentions.0.proj_in.bias`). `transposed`: the checkpoint tensor is the weight's
    transpose (OpenCLIP's `text_projection`).
    """

    name: LayerName
    key: str
    rows: tuple[int, int] | None
    shape: tuple[int, ...]
    op: Op
    module: str
    transposed: bool = False

    def view(self, tensor: torch.Tensor) -> torch.Tensor:
        """The layer's own weight as a view into its checkpoint tensor (shape `self.shape`)."""
        if self.transposed:
            return tensor.t()
        return tensor if self.rows is None else tensor[self.rows[0] : self.rows[1]]


@dataclass(frozen=True)
class LayerTable:
    """Every adaptable layer of one loaded model."""

    family: Family
    layers: Mapping[LayerName, Layer]


@dataclass(frozen=True)
class ConvGeometry:
    """What a convolution's weight does not say. Zero-padding in pixels per axis."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
