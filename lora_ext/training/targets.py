"""Which layers learn, and what the file of them will weigh."""

from __future__ import annotations

import math
from collections.abc import Iterator

from lora_ext.config import NetworkConfig, TrainConfig
from lora_ext.layers import Layer, LayerTable
from lora_ext.model import default_targets
from lora_ext.training.precision import DTYPES


def targets(table: LayerTable, config: TrainConfig) -> Iterator[Layer]:
    """The layers that learn, in the table's order: those whose learning rate is not 0."""
    for layer in default_targets(table, conv=config.network.conv_rank > 0):
        unet = layer.name.component == "unet"
        if config.optim.learning_rate if unet else config.optim.text_encoder_lr:
            yield layer


def rank_and_alpha(layer: Layer, network: NetworkConfig) -> tuple[int, float]:
    """Convolutions wider than 1x1 have settings of their own."""
    wide = layer.op == "conv" and layer.shape[2:] != (1, 1)
    return (network.conv_rank, network.conv_alpha) if wide else (network.rank, network.alpha)


def file_bytes(table: LayerTable, config: TrainConfig) -> int:
    """Bytes of the tensors in the file: `down` and `up` of every target in the precision it is saved in."""
    numbers = 0
    for layer in targets(table, config):
        out, *inside = layer.shape
        numbers += rank_and_alpha(layer, config.network)[0] * (out + math.prod(inside))
    return numbers * DTYPES[config.save.save_precision].itemsize
