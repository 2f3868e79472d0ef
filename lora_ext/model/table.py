"""Which layers a model has, and which of them a LoRA trains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import get_args

from torch import nn

from lora_ext.layers import BIAS, Component, Layer, LayerName, LayerTable
from lora_ext.model.architecture import Architecture
from lora_ext.model.parts import Part
from lora_ext.model.text_parts import text_parts
from lora_ext.model.unet_parts import unet_parts

TEXT: tuple[Component, ...] = get_args(Component)[1:]


def layer_table(arch: Architecture) -> LayerTable:
    """Every layer of the UNet and the text encoders, in the order of the forward pass, text encoders last.

    A bias is a layer too and follows the weight it belongs to.
    """
    layers = list(_layers("unet", unet_parts(arch.unet)))
    for component, shape in zip(TEXT, arch.text, strict=False):
        layers += _layers(component, text_parts(shape))
    return LayerTable(arch.family, {layer.name: layer for layer in layers})


def default_targets(table: LayerTable, conv: bool) -> list[Layer]:
    """The layers kohya's trainer gives a LoRA: everything with a matrix in the UNet's transformers, and attention and
    MLP of the text encoders (SD1.5: 192 + 72, SDXL: 722 + 264).

    With `conv` also what its LoCon gets: the resnets' convolutions and time projections, and the down- and upsamplers.
    """
    return [layer for layer in table.layers.values() if _wanted(layer, conv)]


def module_of(root: nn.Module, layer: Layer) -> nn.Module:
    """The module of `layer` inside a model built by this room; of a bias, the module that has it.

    transformers 5 has no `text_model` level in `CLIPTextModel`. Raises AttributeError for a foreign root.
    """
    path = layer.module.removesuffix(BIAS)
    if path.startswith("text_model.") and not hasattr(root, "text_model"):
        path = path.removeprefix("text_model.")
    return root.get_submodule(path)


def _layers(component: Component, parts: Iterable[Part]) -> Iterator[Layer]:
    for part in parts:
        name = LayerName(component, part.path)
        yield Layer(name, part.key, part.rows, part.shape, part.op, part.module, part.transposed)
        if part.bias is not None:
            yield Layer(name.bias, part.bias, part.rows, part.shape[:1], "bias", part.module + BIAS)


def _wanted(layer: Layer, conv: bool) -> bool:
    if layer.op not in {"linear", "conv"}:
        return False
    if layer.name.component != "unet":
        return ".encoder.layers." in layer.name.path
    if ".attentions." in layer.module:
        return True
    return conv and any(kind in layer.module for kind in (".resnets.", ".downsamplers.", ".upsamplers."))
