"""Applying LoRAs to SD1.5's UNet: ours, diffusers' `fuse_lora`, and a plain copy of the touched weights.

`python -m benchmarks.apply [--json] [--device cuda] [--repeats 3]`. Random weights in the real shapes; LoRAs of rank 32
on the 192 layers that kohya's trainer touches. Ours, the peer and the limit take turns in one process; medians count.

What is timed: from LoRAs held in memory to weights that hold their sum. Ours: `WeightPatcher.apply` on an untouched
model, making the copies of the originals included. diffusers: `fuse_lora` over peft adapters loaded before, as its
users do who want merged weights; it keeps no originals. Limit: `copy_` of the touched weights, each read and written
once.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor

from benchmarks.report import Row, show
from lora_ext.adapters import LoraAdapter, Network
from lora_ext.layers import Layer, LayerTable
from lora_ext.model import Architecture, TextShape, UNetShape, VaeShape, default_targets, layer_table
from lora_ext.patching import Strengths, WeightPatcher

RANK = 32
STRENGTHS = (0.7, 0.5, 0.9)

SD15 = Architecture(
    family="sd1",
    inpainting=False,
    prediction_type="epsilon",
    unet=UNetShape(
        in_channels=4,
        out_channels=4,
        channels=(320, 640, 1280, 1280),
        res_blocks=2,
        depth=(1, 1, 1, 0),
        middle_depth=1,
        heads=(8, 8, 8, 8),
        context_dim=768,
        linear_projection=False,
        added_dim=0,
    ),
    text=(TextShape(768, 12, 12, 3072, 49408, 77, 0, "quick_gelu", False, "cond_stage_model.transformer.text_model."),),
    vae=VaeShape(channels=(128, 256, 512, 512), res_blocks=2, latent_channels=4, factor=8, scale=0.18215),
    clip_skip=1,
)


@dataclass(frozen=True)
class Case:
    """One model and the LoRAs for it. `live` is checkpoint key -> the UNet's own parameter."""

    unet: UNet2DConditionModel
    layers: list[Layer]
    live: dict[str, Tensor]
    table: LayerTable
    networks: list[Network]


def main() -> None:
    """Run every case and print the rows."""
    options = _options()
    device = torch.device(options.device)
    rows: list[Row] = []
    notes: list[str] = []
    for dtype in (torch.float16, torch.float32):
        case = _case(dtype, device, networks=3)
        for count in (1, 3):
            row, note = _compare(case, count, device, options.repeats)
            rows.append(row)
            notes.append(note)
        del case
        gc.collect()
    show(rows, device, as_json=options.json, notes=notes)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 …")
    parser.add_argument("--repeats", type=int, default=3, help="turns each side takes; medians are shown")
    return parser.parse_args()


def _case(dtype: torch.dtype, device: torch.device, networks: int) -> Case:
    table = layer_table(SD15)
    layers = [layer for layer in default_targets(table, conv=False) if layer.name.component == "unet"]
    assert len(layers) == 192
    torch.manual_seed(0)
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=SD15.unet.context_dim)
    unet = unet.to_empty(device=device).to(dtype).requires_grad_(False).eval()
    live = {layer.key: unet.get_submodule(layer.module).weight.data for layer in layers}
    for weight in live.values():  # the other layers are never read, so their memory is never touched
        weight.normal_(0, 0.03)
    case = Case(unet, layers, live, table, [_network(layers, seed, device) for seed in range(networks)])
    _load_into_peft(case)
    return case


def _network(layers: list[Layer], seed: int, device: torch.device) -> Network:
    g = torch.Generator().manual_seed(seed)
    adapters = {}
    for layer in layers:
        adapter = LoraAdapter.create(layer.shape, RANK, RANK / 2, g).requires_grad_(False)
        adapter.up.normal_(0, 0.02, generator=g)
        adapters[layer.name] = adapter.to(device)
    return Network(f"lora{seed}", adapters, identity=str(seed))


def _load_into_peft(case: Case) -> None:
    """The same LoRAs inside the UNet as peft adapters, as `load_lora_weights` leaves them; off until chosen."""
    targets = [layer.module for layer in case.layers]
    for network in case.networks:
        config = LoraConfig(r=RANK, lora_alpha=RANK / 2, target_modules=targets, init_lora_weights=False)
        case.unet.add_adapter(config, adapter_name=network.name)
        for layer in case.layers:
            theirs, mine = case.unet.get_submodule(layer.module), network.adapters[layer.name]
            theirs.lora_A[network.name].weight.data.copy_(mine.down)
            theirs.lora_B[network.name].weight.data.copy_(mine.up)


def _compare(case: Case, count: int, device: torch.device, repeats: int) -> tuple[Row, str]:
    kind = str(next(iter(case.live.values())).dtype).removeprefix("torch.")
    original = {key: tensor.clone() for key, tensor in case.live.items()}
    patcher = WeightPatcher(lambda: case.live, case.table)
    chosen = case.networks[:count]
    wanted = {network: Strengths(s) for network, s in zip(chosen, STRENGTHS, strict=False)}
    names = [network.name for network in chosen]
    case.unet.set_adapters(names, list(STRENGTHS[:count]))
    turns: list[tuple[float, float, float, float]] = []
    exact, residual, kept = True, 0.0, 0
    for _ in range(repeats + 1):
        limit = _timed(device, lambda: _copy(case.live, original))
        ours = _timed(device, lambda: patcher.apply(wanted))
        kept = patcher.originals_bytes
        clear = _timed(device, patcher.clear)
        exact &= all(torch.equal(_bits(case.live[key]), _bits(original[key])) for key in original)
        peer = _timed(device, lambda: case.unet.fuse_lora(adapter_names=names))
        case.unet.unfuse_lora()
        residual = max(float((case.live[key] - original[key]).abs().max()) for key in original)
        _copy(case.live, original)
        turns.append((ours, peer, limit, clear))
    # the first turn warms up and does not count
    ours, peer, limit, clear = (statistics.median(times) for times in zip(*turns[1:], strict=True))
    note = (
        f"{kind}, {count} LoRA: clear takes {clear:.4g} s and is {'bitwise' if exact else 'NOT BITWISE'}; "
        f"copies of originals {kept / 1e6:.0f} MB; diffusers' unfuse leaves errors up to {residual:.1e}"
    )
    return Row(f"apply {count} LoRA, SD1.5 UNet, {kind}", ours, peer, "diffusers fuse_lora", limit, "s"), note


def _copy(live: dict[str, Tensor], source: dict[str, Tensor]) -> None:
    for key, tensor in source.items():
        live[key].copy_(tensor)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)


def _timed(device: torch.device, work: Callable[[], object]) -> float:
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    with torch.no_grad():
        main()
