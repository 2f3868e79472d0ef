"""The adapters that learn: fresh ones, or those of a file to go on from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from lora_ext.adapters import Adapter, AdapterKind, CreateOptions, Network, create_adapter
from lora_ext.config import NetworkConfig, TrainConfig
from lora_ext.errors import BadInput, Problem
from lora_ext.formats import NameTable, read_network
from lora_ext.layers import LayerName, LayerTable
from lora_ext.training.targets import Target, plan, text_rates

FIELDS = {"pissa": "init", "ia3_on_input": "ia3_side"}  # names of options that differ from those of their settings


def create_options(network: NetworkConfig) -> CreateOptions:
    """The settings of a kind as the adapters room takes them."""
    return CreateOptions(
        dora=network.dora,
        rslora=network.rslora,
        tucker=network.tucker,
        pissa=network.init == "pissa",
        lokr_factor=network.lokr_factor,
        lokr_decompose_both=network.lokr_decompose_both,
        lokr_full=network.lokr_full,
        oft_constraint=network.oft_constraint,
        oft_rescale=network.oft_rescale,
        ia3_on_input={"auto": None, "input": True, "output": False}[network.ia3_side],
    )


def create_adapters(
    targets: Iterable[Target], network: NetworkConfig, tensors: Mapping[str, Tensor], init: torch.Generator
) -> dict[LayerName, Adapter]:
    """A fresh adapter for every target, on the CPU, drawn from `init` in their order."""
    options = create_options(network)
    looks = options.dora or options.pissa
    made = {}
    for target in targets:
        layer = target.layer
        if target.extra:
            kind: AdapterKind = "norm"
            made[layer.name] = create_adapter(kind, layer, 1, 1.0)
            continue
        base = layer.view(tensors[layer.key]) if looks else None
        kind = cast(AdapterKind, network.kind)
        made[layer.name] = create_adapter(kind, layer, target.rank, target.alpha, options, init, base)
    return made


def check_network(table: LayerTable, config: TrainConfig) -> Iterator[Problem]:
    """What is wrong with the choice of layers and the settings of the kind."""
    if config.network.start_from.strip():
        return
    try:
        planned = plan(table, config)
        learning = config.optim.learning_rate or any(text_rates(config))
        if not planned and learning:
            yield Problem(
                "only_layers", "no layer is left that could learn", fix="Look at the rules, ranks and learning rates."
            )
        weights = [t for t in planned if not t.extra]
        smallest = min(weights, key=lambda t: torch.Size(t.layer.shape).numel(), default=None)
        if smallest is not None:
            base = {smallest.layer.key: torch.ones(_whole_shape(smallest))}
            create_adapters([smallest], config.network, base, torch.Generator().manual_seed(0))
    except BadInput as e:
        known = {f for f in vars(config.network)} | {"block_lr"}
        for problem in e.problems:
            field = FIELDS.get(problem.field, problem.field)
            yield Problem(field if field in known else "kind", problem.what, problem.expected, problem.got, problem.fix)


def read_start(path: str, table: LayerTable) -> tuple[Network, tuple[str, ...]]:
    """The network to go on from, and sentences about what of it is not used.

    Raises `BadInput` (field "start_from") for a file that cannot be read, is of another family or holds what cannot
    be trained (embeddings).
    """
    file = Path(os.path.expanduser(path.strip().strip("\"'")))
    if not file.is_file():
        raise BadInput(Problem("start_from", "there is no such file", "a LoRA file", str(file)))
    try:
        result = read_network(file, NameTable(table))
    except BadInput as e:
        lines = "; ".join(str(p) for p in e.problems[:5])
        raise BadInput(Problem("start_from", "this file cannot be gone on from", got=lines)) from e
    ops = {name: table.layers[name].op for name in result.network.adapters}
    strange = [str(name) for name, op in ops.items() if op == "embedding"]
    if strange:
        raise BadInput(
            Problem("start_from", "the file changes layers that are not trained", got=", ".join(strange[:5]))
        )
    unsavable = [str(name) for name, adapter in result.network.adapters.items() if not adapter.savable]
    if unsavable:
        what = "the file is of a kind that can be applied but not saved again (peft's OFT, BOFT or IA3)"
        raise BadInput(Problem("start_from", what, got=", ".join(unsavable[:3]), fix="Start from another file."))
    missing = len(result.unmatched)
    told = (f"{missing} key(s) of {file.name} fit no layer of this model and are left out.",) if missing else ()
    return result.network, told


def _whole_shape(target: Target) -> tuple[int, ...]:
    """Of the checkpoint tensor that holds the layer, as far as `Layer.view` looks at it."""
    if target.layer.transposed:
        return target.layer.shape[::-1]
    rows = target.layer.rows
    return target.layer.shape if rows is None else (rows[1], *target.layer.shape[1:])
