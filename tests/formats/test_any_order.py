"""Sets of files asked for in any order, at once or one after another: the same bits. Eight plain, four with DoRA."""

from __future__ import annotations

import itertools

import pytest
import safetensors.torch
import tiny_table
import torch
from adapters import adapter_samples

from lora_ext.formats import NameTable, read_network
from lora_ext.patching import Strengths, WeightPatcher

PLAIN = [
    ("lora", "lora"),
    ("lora", "lora", "lora"),
    ("lora", "lora tucker", "lora"),
    ("lora", "loha", "lokr"),
    ("lora", "glora", "full"),
    ("oft", "lora", "ia3 output"),
    ("boft", "loha tucker", "lokr tucker", "lora"),
    ("full", "full", "lokr whole", "sparse"),
]
DECOMPOSED = [
    ("dora per input", "lora"),
    ("dora per output", "dora per input"),
    ("dora of loha", "lora", "oft"),
    ("dora of lokr", "dora of tucker", "full", "loha"),
]
STRENGTHS = (Strengths(0.7, 0.4), Strengths(-0.35, 1.0), Strengths(1.15, 0.1), Strengths(0.6, 0.6))


def saved(path, kind, names, seed):
    """A file of the kind, on the layers that it fits (Tucker is for kernels)."""
    rand, tensors = adapter_samples.draw(seed), {}
    for layer in names.table.layers.values():
        if "tucker" in kind and layer.shape[2:] != (3, 3):
            continue
        own = adapter_samples.KINDS[kind](layer.shape, rand)
        tensors |= {f"{names.kohya(layer.name)}.{name}": tensor for name, tensor in own.items()}
    safetensors.torch.save_file(tensors, path)
    return path


def weights(table, dtype):
    g = torch.Generator().manual_seed(1)
    return {layer.key: torch.randn(layer.shape, generator=g).to(dtype) for layer in table.layers.values()}


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("kinds", [*PLAIN, *DECOMPOSED], ids=" + ".join)
def test_the_same_bits(tmp_path, kinds, family):
    table = tiny_table.table(family)
    names = NameTable(table)
    paths = [saved(tmp_path / f"{i}.safetensors", kind, names, i) for i, kind in enumerate(kinds)]
    for dtype in (torch.float16, torch.float32):
        first: dict[str, torch.Tensor] = {}
        for order in list(itertools.permutations(range(len(kinds))))[:: max(1, len(kinds) ** 2 // 4 - 1)]:
            read = {i: read_network(paths[i], names).network for i in order}  # read anew, in this order
            tensors = weights(table, dtype)
            patcher = WeightPatcher(lambda tensors=tensors: tensors, table)
            for count in (1, len(order)):  # one of them was on already
                patcher.apply({read[i]: STRENGTHS[i] for i in order[:count]})
            first = first or {key: tensor.clone() for key, tensor in tensors.items()}
            assert all(torch.equal(tensor, first[key]) for key, tensor in tensors.items()), order
            patcher.clear()
            assert all(torch.equal(tensors[key], tensor) for key, tensor in weights(table, dtype).items())
        changed = sum(not torch.equal(first[key], tensor) for key, tensor in weights(table, dtype).items())
        assert changed == len(table.layers)
