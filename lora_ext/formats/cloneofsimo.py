"""cloneofsimo/lora's files: factors by position in the model, with no layer's name.

A .pt is a list up, down, up, down, …; a .safetensors has `unet:0:up`, `unet:0:down`, `text_encoder:0:up`, …. The
position counts the layers in the order in which that trainer walked diffusers' modules.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from lora_ext.errors import BadInput, Problem
from lora_ext.layers import Component, Layer, LayerTable

Place = tuple[Layer, str, str]
"""Layer, key of `up`, key of `down`."""

NAMED = re.compile(r"(unet|text_encoder):(\d{1,5}):(up|down)")
PARTS: Mapping[str, Component] = {"unet": "unet", "text_encoder": "te1"}

BLOCKS = ("down_blocks", "up_blocks", "mid_block")
"""diffusers makes the middle last."""
OLD, NEW = ("attn1", "ff", "attn2"), ("attn1", "attn2", "ff")
"""A transformer block's parts in diffusers before and since 0.16."""
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD = ("net.0.proj",)
RESNET = ("conv1", "time_emb_proj", "conv2", "conv_shortcut")
TEXT = ("k_proj", "v_proj", "q_proj", "out_proj")


def is_positional(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the file's tensors are such a list: `0`, `1`, … (a .pt's list) or `unet:0:up` …"""
    return bool(tensors) and (all(map(str.isdecimal, tensors)) or all(map(NAMED.fullmatch, tensors)))


def places(path: Path, tensors: Mapping[str, Tensor], table: LayerTable) -> list[Place]:
    """The layer of every pair of tensors. Raises `BadInput` when no known order of layers fits their shapes."""
    found: list[Place] = []
    for part, pairs in _pairs(path, tensors).items():
        orders = _orders(table, part)
        fitting = (order for order in orders if _fits(order, pairs, tensors))
        order = next(fitting, None)
        if order is None:
            raise BadInput(
                Problem(
                    os.fspath(path),
                    "the file names no layers (cloneofsimo's format) and its tensors do not fit the loaded model's",
                    " or ".join(f"{len(order)} pairs" for order in orders if order),
                    f"{len(pairs)} pairs",
                    "Load the model it was made for.",
                )
            )
        found += [(layer, up, down) for layer, (up, down) in zip(order, pairs, strict=True)]
    return found


def _pairs(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, list[tuple[str, str]]]:
    """Keys of up and down in order, by part; a bare list may be of either part: ""."""
    if all(map(str.isdecimal, tensors)):
        if len(tensors) % 2 or any(str(i) not in tensors for i in range(len(tensors))):
            raise BadInput(Problem(os.fspath(path), "the list of factors is odd", "up, down, up, down, …"))
        return {"": [(str(i), str(i + 1)) for i in range(0, len(tensors), 2)]}
    counts: dict[str, int] = {}
    for key in tensors:
        part, index, _ = key.split(":")
        counts[part] = max(counts.get(part, 0), int(index) + 1)
    pairs = {part: [(f"{part}:{i}:up", f"{part}:{i}:down") for i in range(n)] for part, n in counts.items()}
    missing = [key for found in pairs.values() for pair in found for key in pair if key not in tensors]
    if missing:
        raise BadInput(Problem(os.fspath(path), f"{missing[0]} is missing", "up and down for every position"))
    return pairs


def _fits(order: Sequence[Layer], pairs: Sequence[tuple[str, str]], tensors: Mapping[str, Tensor]) -> bool:
    if len(order) != len(pairs):
        return False
    shapes = ((layer.shape, tensors[up].shape, tensors[down].shape) for layer, (up, down) in zip(order, pairs))  # noqa: B905
    return all(
        len(up) > 1 and len(down) > 1 and up[0] == shape[0] and down[1] == shape[1] and up[1] == down[0]
        for shape, up, down in shapes
    )


def _orders(table: LayerTable, part: str) -> list[list[Layer]]:
    """Every order of layers that a trainer of this kind may have walked."""
    layers: dict[Component, dict[str, Layer]] = {"unet": {}, "te1": {}}
    for layer in table.layers.values():
        if layer.op in {"linear", "conv"} and layer.name.component in layers:
            layers[layer.name.component][layer.module] = layer
    unets = [_unet(layers["unet"], parts, resnets) for resnets in (False, True) for parts in (OLD, NEW)]
    text = list(_text(layers["te1"]))
    return {"unet": unets, "text_encoder": [text]}.get(part, [*unets, text])


def _unet(modules: Mapping[str, Layer], parts: Sequence[str], resnets: bool) -> list[Layer]:
    """Attention and GEGLU of every transformer, with `resnets` (the "extended" mode) those too."""
    order: list[Layer] = []
    for block in BLOCKS:
        tops = sorted({_top(path) for path in modules if path.startswith(block)})
        for top in tops:
            order += _under(modules, f"{top}.attentions.", list(_transformer(parts)))
            if resnets:
                order += _under(modules, f"{top}.resnets.", list(RESNET))
    return order


def _top(path: str) -> str:
    """`down_blocks.0` of a path in it; the middle has no number."""
    return "mid_block" if path.startswith("mid_block") else ".".join(path.split(".")[:2])


def _transformer(parts: Sequence[str]) -> Iterator[str]:
    for part in parts:
        yield from (f"{part}.{end}" for end in (FEED_FORWARD if part == "ff" else ATTENTION))


def _under(modules: Mapping[str, Layer], start: str, ends: Sequence[str]) -> list[Layer]:
    """The layers whose path is start + numbers + one of `ends`, by the numbers first."""
    found: list[tuple[tuple[int, ...], int, Layer]] = []
    for path, layer in modules.items():
        if path.startswith(start):
            for i, end in enumerate(ends):
                if path.endswith("." + end):
                    numbers = path.removeprefix(start).removesuffix(end).split(".")
                    found.append((tuple(int(n) for n in numbers if n.isdecimal()), i, layer))
    return [layer for _, _, layer in sorted(found, key=lambda item: item[:2])]


def _text(modules: Mapping[str, Layer]) -> Iterator[Layer]:
    for i in range(len(modules)):
        at = f"text_model.encoder.layers.{i}.self_attn."
        yield from (modules[at + part] for part in TEXT if at + part in modules)
