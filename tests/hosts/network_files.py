"""Network files of many kinds for one checkpoint, loud enough to be seen in a picture of a few steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_ext.adapters import adapter_for
from lora_ext.formats import NameTable
from lora_ext.layers import Layer, LayerTable
from lora_ext.model import default_targets, detect, hints_from_yaml, layer_table

RANK = 4
LOUDNESS = 0.5
"""Norm of ΔW over the norm of W0."""

BASES = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}
"""How kohya's trainer names the families."""

Tensors = dict[str, Tensor]


def lora(shape: tuple[int, ...], g: torch.Generator) -> Tensors:
    out, width, *kernel = shape
    down = torch.randn(RANK, width, *kernel, generator=g)
    up = torch.randn(out, RANK, *[1 for _ in kernel], generator=g)
    return {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(2.0)}


def loha(shape: tuple[int, ...], g: torch.Generator) -> Tensors:
    out, width = shape[0], math.prod(shape[1:])
    sizes = {"w1_a": (out, RANK), "w1_b": (RANK, width), "w2_a": (out, RANK), "w2_b": (RANK, width)}
    made = {f"hada_{name}": torch.randn(size, generator=g) for name, size in sizes.items()}
    return {**made, "alpha": torch.tensor(2.0)}


def lokr(shape: tuple[int, ...], g: torch.Generator) -> Tensors:
    out, width, *kernel = shape
    w2_b = torch.randn(RANK, width // 4 * math.prod(kernel), generator=g)
    w1, w2_a = torch.randn(4, 4, generator=g), torch.randn(out // 4, RANK, generator=g)
    return {"lokr_w2_a": w2_a, "lokr_w1": w1, "lokr_w2_b": w2_b, "alpha": torch.tensor(2.0)}


KINDS: Mapping[str, Callable[[tuple[int, ...], torch.Generator], Tensors]] = {
    "lora": lora,
    "locon": lora,
    "loha": loha,
    "lokr": lokr,
    "dora": lora,
    "peft": lora,
}
FORMATS = tuple(KINDS)
BUILTIN_FAILS = {"peft"}
"""Formats that A1111's loader reads wrongly or, without a word, not at all."""


def write(checkpoint: Path, format: str, path: Path, seed: int = 0) -> Path:
    """A network of `format` for the checkpoint: UNet and text encoders."""
    tensors = load_file(checkpoint)
    table = layer_table(detect(tensors, hints_from_yaml(checkpoint.with_suffix(".yaml"))))
    names = NameTable(table)
    made: Tensors = {}
    for number, layer in enumerate(_layers(table, format)):
        g = torch.Generator().manual_seed(1000 * seed + number)
        own = _loud(KINDS[format](layer.shape, g), layer, tensors)
        if format == "dora":
            own["dora_scale"] = _lengths(layer, tensors, g)
        prefix = peft_prefix(layer) if format == "peft" else names.kohya(layer.name)
        made |= _peft(prefix, own) if format == "peft" else {f"{prefix}.{key}": t for key, t in own.items()}
    facts = {"ss_output_name": path.stem, "ss_base_model_version": BASES[table.family]}
    save_file({key: t.contiguous() for key, t in made.items()}, path, facts)
    return path


def peft_prefix(layer: Layer) -> str:
    """The name diffusers has for a layer."""
    return {"unet": "unet", "te1": "text_encoder", "te2": "text_encoder_2"}[layer.name.component] + f".{layer.module}"


def _layers(table: LayerTable, format: str) -> list[Layer]:
    """Every third layer of the UNet and all of the text encoders (A1111 wants q, k, v and out of SDXL's together)."""
    targets = default_targets(table, conv=format == "locon")
    unet = [layer for layer in targets if layer.name.component == "unet"]
    return [*unet[::3], *(layer for layer in targets if layer.name.component != "unet")]


def _loud(own: Tensors, layer: Layer, tensors: Mapping[str, Tensor]) -> Tensors:
    base = layer.view(tensors[layer.key]).float()
    first = next(iter(own))
    loudness = LOUDNESS if layer.name.component == "unet" else LOUDNESS / 4
    delta = adapter_for(own, layer.shape).delta(base).detach()
    own[first] = own[first] * float(loudness * base.norm() / delta.norm())
    return own


def _lengths(layer: Layer, tensors: Mapping[str, Tensor], g: torch.Generator) -> Tensor:
    """Per input, the one axis that A1111 computes rightly."""
    base = layer.view(tensors[layer.key]).float()
    lengths = base.transpose(0, 1).flatten(1).norm(dim=1)
    around = lengths * (1 + 0.1 * torch.randn(lengths.shape, generator=g))
    return around.reshape(1, -1, *[1 for _ in layer.shape[2:]])


def _peft(prefix: str, own: Tensors) -> Tensors:
    """PEFT knows no alpha in the file: it is folded in here, so that the numbers mean the same as kohya's."""
    scale = float(own["alpha"]) / RANK
    return {
        f"{prefix}.lora_A.weight": own["lora_down.weight"],
        f"{prefix}.lora_B.weight": own["lora_up.weight"] * scale,
    }
