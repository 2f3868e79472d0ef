"""How many bytes the file of a run will have, told from shapes alone."""

from __future__ import annotations

import math
from collections.abc import Iterable

from lora_ext.config import TrainConfig
from lora_ext.formats import NameTable
from lora_ext.layers import LayerTable
from lora_ext.training.adapter_walk import file_shapes
from lora_ext.training.precision import DTYPES
from lora_ext.training.targets import Target

METADATA_BYTES = 5000
"""Of a file's header: settings, buckets, a short list of tags."""


def file_bytes(targets: Iterable[Target], table: LayerTable, config: TrainConfig) -> int:
    """Of the tensors, of their entries in the header, and about what metadata takes.

    Raises `BadInput` for settings that the kind cannot have.
    """
    item, names = DTYPES[config.save.save_precision].itemsize, NameTable(table)
    total = METADATA_BYTES
    for target in targets:
        prefix = len(names.kohya(target.layer.name))
        for name, shape in file_shapes(target, config.network).items():
            size = math.prod(shape) * item
            entry = f'".{name}":{{"dtype":"F16","shape":{list(shape)},"data_offsets":[,]}},'.replace(", ", ",")
            total += size + prefix + len(entry) + 2 * len(str(total))
    return total
