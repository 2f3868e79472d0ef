"""LoRAs into SD1.5's UNet: ours, diffusers' `fuse_lora`, and a plain copy of the touched weights, turn by turn.

`python -m benchmarks.apply [--json] [--device cuda] …`. Random weights in the real shapes; kohya files of rank 32 over
the 192 layers that kohya's trainer touches. Medians in one process. Four pieces of work are timed:

- *from files*: ours `read_networks`, `WeightPatcher.apply`; diffusers `load_lora_weights`, `set_adapters`, `fuse_lora`.
- *weights only*: the part of that after loading: `apply` against `set_adapters` and `fuse_lora`. Ours makes sure of the
  originals in it, which the peer does not keep: the model comes from a checkpoint file, as every model does; they are
  compared with the file, and nothing is copied.
- *weights only, copies*: the same without such a file: the originals are copied, into memory that is used again.
- *other strengths*: from merged to merged: ours `apply`; diffusers `unfuse_lora`, `set_adapters`, `fuse_lora`.

The limit is `copy_` of the touched weights (each read and written once) and the bare float32 products of these ranks,
by `torch.mm` into memory that is there already: exact sums cannot be had for less arithmetic.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import diffusers
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.report import Row, show
from lora_ext.adapters import LoraAdapter, Network
from lora_ext.errors import BadInput
from lora_ext.formats import NameTable, read_networks, write_network
from lora_ext.hosts.weight_file import weight_file
from lora_ext.layers import Layer
from lora_ext.model import Architecture, TextShape, UNetShape, VaeShape, default_targets, layer_table
from lora_ext.patching import Strengths, WeightPatcher

DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
RANK = 32
FIRST, SECOND = (0.7, 0.5, 0.9), (0.6, 0.8, 0.4)
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

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


class Pipe(DiffusionPipeline, StableDiffusionLoraLoaderMixin):
    """What diffusers loads LoRAs into, with nothing but the UNet in it."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: None = None) -> None:
        super().__init__()
        self.register_modules(unet=unet, text_encoder=text_encoder)


@dataclass(frozen=True)
class Case:
    """One model, its touched weights by checkpoint key (the UNet's own storage) and in a file, and LoRAs for it."""

    pipe: Pipe
    live: dict[str, Tensor]
    checkpoint: Path
    names: NameTable
    files: list[Path]


class Bench(NamedTuple):
    """Where and how it is measured."""

    device: torch.device
    repeats: int
    clock: Callable[[], float]

    def timed(self, work: Callable[[], object]) -> float:
        """Seconds of one piece of work."""
        _wait(self.device)
        start = self.clock()
        work()
        _wait(self.device)
        return self.clock() - start


class Times(NamedTuple):
    """Seconds of one turn."""

    copy: float
    products: float
    ours_read: float
    ours_apply: float
    ours_again: float
    ours_clear: float
    ours_copied: float
    peer_load: float
    peer_fuse: float
    peer_again: float


def main() -> None:
    """Run every case and print the rows."""
    options = _options()
    device = torch.device(options.device)
    bench = Bench(device, options.repeats, CLOCKS[options.clock])
    if options.threads:
        torch.set_num_threads(options.threads)
    rows: list[Row] = []
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for dtype in options.dtypes:
            case = _case(DTYPES[dtype], device, Path(folder), max(options.counts))
            for count in options.counts:
                more, note = _compare(case, count, bench, dtype)
                rows += more
                notes.append(note)
                for row in more:
                    print(f"{row.work}: ours {row.ours:.4g} s, peer {row.peer:.4g} s", file=sys.stderr, flush=True)
            del case
            gc.collect()
    show(rows, device, as_json=options.json, notes=notes)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 …")
    parser.add_argument("--repeats", type=int, default=3, help="turns each side takes; medians are shown")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: processor time, for a busy machine")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 1 is the fairest on a busy machine")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), help="of the model's weights")
    parser.add_argument("--counts", nargs="+", type=int, choices=(1, 2, 3), default=[1, 3], help="LoRAs at once")
    return parser.parse_args()


def _case(dtype: torch.dtype, device: torch.device, folder: Path, networks: int) -> Case:
    table = layer_table(SD15)
    layers = [layer for layer in default_targets(table, conv=False) if layer.name.component == "unet"]
    assert len(layers) == 192
    torch.manual_seed(0)
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=SD15.unet.context_dim)
    unet = unet.to_empty(device=device).to(dtype).requires_grad_(False).eval()
    live = {layer.key: unet.get_submodule(layer.module).weight.data for layer in layers}
    for weight in live.values():  # the other layers are never read, so their memory is never touched
        weight.normal_(0, 0.03)
    names = NameTable(table)
    return Case(
        Pipe(unet), live, _checkpoint(folder, live), names, [_file(folder, layers, names, i) for i in range(networks)]
    )


def _checkpoint(folder: Path, live: dict[str, Tensor]) -> Path:
    path = folder / "checkpoint.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in live.items()}, path)
    os.utime(path, (0, 0))  # a file written a moment ago would not be believed
    return path


def _file(folder: Path, layers: list[Layer], names: NameTable, seed: int) -> Path:
    path = folder / f"lora{seed}.safetensors"
    g = torch.Generator().manual_seed(seed)
    network = Network(path.stem, {})
    for layer in layers:
        adapter = LoraAdapter.create(layer.shape, RANK, RANK / 2, g).requires_grad_(False)
        adapter.up.normal_(0, 0.02, generator=g)
        network.adapters[layer.name] = adapter
    write_network(path, network, names, {}, torch.float16)
    return path


def _compare(case: Case, count: int, bench: Bench, kind: str) -> tuple[list[Row], str]:
    original = {key: tensor.clone() for key, tensor in case.live.items()}
    patcher = WeightPatcher(lambda: case.live, case.names.table, lambda: weight_file(case.checkpoint))
    copying = WeightPatcher(lambda: case.live, case.names.table)
    turns: list[Times] = []
    exact, residual, kept, copied = True, 0.0, 0, 0
    for _ in range(bench.repeats + 1):
        copy, products = bench.timed(lambda: _copy(case.live, original)), _products(case, count, bench)
        networks, read, first, again = _ours(case, patcher, count, bench)
        kept = max(kept, patcher.originals_bytes)
        clear = bench.timed(patcher.clear)
        copies = bench.timed(lambda: _apply(copying, networks, FIRST))  # noqa: B023 - called at once
        copied = max(copied, copying.originals_bytes)
        copying.clear()
        exact &= all(torch.equal(_bits(case.live[key]), _bits(original[key])) for key in original)
        peer = _peer(case, count, bench)
        residual = max(float((case.live[key] - original[key]).abs().max()) for key in original)
        _copy(case.live, original)
        turns.append(Times(copy, products, read, first, again, clear, copies, *peer))
    # the first turn warms up and does not count
    t = Times(*(statistics.median(times) for times in zip(*turns[1:], strict=True)))
    note = (
        f"{kind}, {count} LoRA: clear takes {t.ours_clear:.4g} s and is {'bitwise' if exact else 'NOT BITWISE'}; "
        f"memory for originals {kept / 1e6:.0f} MB, as copies {copied / 1e6:.0f} MB; the first application with "
        f"copies, into fresh memory, takes {turns[0].ours_copied:.4g} s; the limit is copy {t.copy:.4g} s and products "
        f"{t.products:.4g} s; diffusers' unfuse leaves errors up to {residual:.1e}"
    )
    work, limit = f"{count} LoRA, SD1.5 UNet, {kind}", t.copy + t.products
    peer_name = f"diffusers {diffusers.__version__}"
    return [
        Row(f"{work}, from files", t.ours_read + t.ours_apply, t.peer_load + t.peer_fuse, peer_name, limit, "s"),
        Row(f"{work}, weights only", t.ours_apply, t.peer_fuse, peer_name, limit, "s"),
        Row(f"{work}, weights only, copies", t.ours_copied, t.peer_fuse, peer_name, limit, "s"),
        Row(f"{work}, other strengths", t.ours_again, t.peer_again, peer_name, limit, "s"),
    ], note


def _products(case: Case, count: int, bench: Bench) -> float:
    """Seconds of the bare products; factors and results lie in memory that is there already."""
    sizes = {(t.shape[0], t[0].numel()) for t in case.live.values()}
    factors = {
        (rows, columns): (
            torch.randn(rows, RANK * count, device=bench.device),
            torch.randn(RANK * count, columns, device=bench.device),
            torch.zeros(rows, columns, device=bench.device),
        )
        for rows, columns in sizes
    }

    def multiply() -> None:
        for tensor in case.live.values():
            up, down, out = factors[tensor.shape[0], tensor[0].numel()]
            torch.mm(up, down, out=out)

    return bench.timed(multiply)


def _ours(case: Case, patcher: WeightPatcher, count: int, bench: Bench) -> tuple[list[Network], float, float, float]:
    """Seconds to read, to apply, and to apply other strengths. On a card the adapters stay where they are applied."""
    networks: list[Network] = []

    def read() -> None:
        for result in read_networks(case.files[:count], case.names, as_stored=True):
            if isinstance(result, BadInput):
                raise result
            for adapter in result.network.adapters.values() if bench.device.type != "cpu" else ():
                adapter.to(bench.device)
            networks.append(result.network)

    times = (
        bench.timed(read),
        bench.timed(lambda: _apply(patcher, networks, FIRST)),
        bench.timed(lambda: _apply(patcher, networks, SECOND)),
    )
    return networks, *times


def _apply(patcher: WeightPatcher, networks: list[Network], strengths: tuple[float, ...]) -> None:
    patcher.apply({n: Strengths(s) for n, s in zip(networks, strengths, strict=False)})


def _peer(case: Case, count: int, bench: Bench) -> tuple[float, float, float]:
    """The same by diffusers; leaves the UNet without adapters and its weights as `unfuse_lora` leaves them."""
    pipe, names = case.pipe, [path.stem for path in case.files[:count]]

    def load() -> None:
        for path in case.files[:count]:
            pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=path.stem)

    def fuse(strengths: tuple[float, ...]) -> None:
        pipe.set_adapters(names, list(strengths[:count]))
        pipe.fuse_lora(components=["unet"], adapter_names=names)

    def refuse() -> None:
        pipe.unfuse_lora(components=["unet"])
        fuse(SECOND)

    times = bench.timed(load), bench.timed(lambda: fuse(FIRST)), bench.timed(refuse)
    pipe.unfuse_lora(components=["unet"])
    pipe.unload_lora_weights()
    gc.collect()
    return times


def _copy(live: dict[str, Tensor], source: dict[str, Tensor]) -> None:
    for key, tensor in source.items():
        live[key].copy_(tensor)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    with torch.no_grad():
        main()
