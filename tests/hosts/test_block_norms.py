"""The chart's numbers: the short way through factors is the long one's, and bars stand in the model's order."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from checkpoints import tensors
from library_files import put

from lora_ext.adapters import LoraAdapter, Network
from lora_ext.formats import NameTable
from lora_ext.hosts.block_norms import block_norms, block_of
from lora_ext.hosts.library import Library
from lora_ext.layers import LayerName
from lora_ext.model import detect, layer_table


def test_norms_are_those_of_the_whole_changes() -> None:
    base = tensors("sd1")
    table = layer_table(detect(base))
    g = torch.Generator().manual_seed(0)
    adapters = {}
    for name, layer in table.layers.items():
        if layer.op in ("linear", "conv") and len(layer.shape) in (2, 4):
            adapter = LoraAdapter.create(layer.shape, 2, 1.0, generator=g)
            adapter.up.data.normal_(generator=g)
            adapters[name] = adapter
    found = block_norms(Network("x", adapters), table, base)
    squares: dict[str, float] = {}
    for name, adapter in adapters.items():
        layer = table.layers[name]
        square = (
            adapter.delta(layer.view(base[layer.key]).float().reshape(layer.shape)).detach().double().square().sum()
        )
        squares[block_of(name)] = squares.get(block_of(name), 0.0) + float(square)
    assert {bar.block: bar.norm for bar in found} == {
        block: pytest.approx(math.sqrt(square), rel=1e-4) for block, square in squares.items()
    }
    assert sum(bar.layers for bar in found) == len(adapters)


def test_bars_in_the_models_order(tmp_path: Path) -> None:
    base = tensors("sd1")
    table = layer_table(detect(base))
    put(tmp_path / "x.safetensors")
    network = Library([tmp_path]).load("x", NameTable(table)).network
    assert [(bar.block, bar.layers) for bar in block_norms(network, table, base)] == [("M00", 1)]
    names = ("unet:output_blocks.11.1.proj_in", "te1:text_model.x", "unet:input_blocks.4.1.x", "unet:middle_block.1.x")
    blocks = [block_of(LayerName(*name.split(":"))) for name in names]  # type: ignore[arg-type]
    assert blocks == ["OUT11", "TE1", "IN04", "M00"] and block_of(LayerName("unet", "time_embed.0")) == "REST"
