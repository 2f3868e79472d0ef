"""Whether the data ever keeps the model waiting: reading pictures, putting batches together, getting to the first step.

`python -m benchmarks.data [--json] [--size sdxl] [--batch 1] [--step-ms 50]`. The limit of a batch is 2 % of a step;
how long a step takes is measured by `benchmarks.step` on a card, and given here as `--step-ms` (50 ms is about a batch
of one SDXL picture on an H100, where data has least time). Pictures are JPEGs of twice the training resolution. The
encoder stands still for `--encode-ms` per picture instead of computing, so that what is left over is waiting for data.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.report import Row, show
from demo.random_base import make
from lora_ext.config import CheckpointConfig, TrainConfig, read
from lora_ext.data import Batches, DataReport, LatentCache, Sample, Store, TextCache, scan
from lora_ext.hosts.standalone import StandaloneModel
from lora_ext.model import Conditioning
from lora_ext.training import Step, train
from lora_ext.training.captions import context_batch

SIZES = {"sd15": (512, 768, 0), "sdxl": (1024, 2048, 1280)}  # pixels, width of the text, of the pooled text
SHARE = 0.02  # of a step that its data may take
TURNS = 50


def main() -> None:
    """Measure and print."""
    options = _options()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pixels = SIZES[options.size][0]
        _pictures(folder / "pictures", options.pictures, 2 * pixels)
        began = time.perf_counter()
        report = scan(_config(folder, options).data)
        rows.append(Row(f"looking at {options.pictures} pictures", time.perf_counter() - began, None, "", None, "s"))
        rows += _reading(report, options)
        rows += _batches(report, folder, options)
        rows.append(_first_step(folder, options))
    show(rows, torch.device("cpu"), as_json=options.json, notes=list(_notes(rows, options)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--size", choices=SIZES, default="sdxl", help="whose pictures and captions")
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--batch", type=int, default=1, help="pictures per step")
    parser.add_argument("--step-ms", type=float, default=50.0, help="how long a step takes")
    parser.add_argument("--encode-ms", type=float, default=100.0, help="how long the VAE takes for a picture")
    return parser.parse_args()


def _pictures(folder: Path, count: int, side: int) -> None:
    """Smooth random JPEGs with captions."""
    folder.mkdir()
    dice = np.random.default_rng(0)
    for i in range(count):
        small = Image.fromarray(dice.integers(0, 255, (32, 32, 3), dtype=np.uint8))
        small.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg", quality=92)
        (folder / f"{i}.txt").write_text(f"a picture of thing {i}, red, big", encoding="utf8")


def _config(folder: Path, options: argparse.Namespace, **values: object) -> TrainConfig:
    given = {"images": str(folder / "pictures"), "output": "x", "resolution": SIZES[options.size][0], **values}
    return read(TrainConfig, {**given, "batch_size": options.batch})


def _reading(report: DataReport, options: argparse.Namespace) -> Iterator[Row]:
    """What is left of the time for latents when the encoder's own is taken off."""
    for threads in (1, 2, 4):
        cache, began = LatentCache(threads=threads), time.perf_counter()
        for _ in cache.build(report.views(), lambda pixels: _standing_still(pixels, options.encode_ms / 1000)):
            pass
        waited = time.perf_counter() - began - len(report.pictures) * options.encode_ms / 1000
        work = f"waiting for a picture to be read, {threads} thread(s), beside an encoder of {options.encode_ms:g} ms"
        yield Row(work, 1000 * waited / len(report.pictures), None, "", options.encode_ms, "ms")


def _standing_still(pixels: Tensor, seconds: float) -> Tensor:
    time.sleep(seconds)
    return torch.zeros(len(pixels), 4, pixels.shape[2] // 8, pixels.shape[3] // 8)


def _batches(report: DataReport, folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Latents and captions of one step put together, from memory and from the cache folder."""
    _, width, pooled = SIZES[options.size]
    texts = TextCache[Conditioning]()
    list(texts.build(report.captions, lambda some: [_conditioning(width, pooled) for _ in some]))
    batches = Batches(report, options.batch, seed=0)
    for name, store in (("memory", None), ("disk", Store(folder / "cache", "benchmark"))):
        cache = LatentCache(store)
        for _ in cache.build(report.views(), lambda pixels: _standing_still(pixels, 0)):
            pass
        seconds = []
        for samples in _endless(batches):
            began = time.perf_counter()
            cache.batch([(batches.picture(sample), sample.flipped) for sample in samples])
            context_batch([texts[sample.caption] for sample in samples], None)
            seconds.append(time.perf_counter() - began)
            if len(seconds) == TURNS:
                break
        work = f"a batch of {options.batch} from {name}"
        yield Row(work, 1000 * statistics.median(seconds), None, "", SHARE * options.step_ms, "ms")


def _conditioning(width: int, pooled: int) -> Conditioning:
    return Conditioning(torch.randn(77, width), torch.randn(pooled) if pooled else None)


def _endless(batches: Batches) -> Iterator[tuple[Sample, ...]]:
    epoch = 0
    while True:
        yield from batches.epoch(epoch)
        epoch += 1


def _first_step(folder: Path, options: argparse.Namespace) -> Row:
    """From the call to the end of the first step, on a shrunken random model: all that is not the model's own work."""
    family = "sdxl" if options.size == "sdxl" else "sd1"
    make(family, folder / "base.safetensors")
    model = StandaloneModel.load(CheckpointConfig(checkpoint=str(folder / "base.safetensors")))
    config = _config(folder, options, resolution=64, rank=4, alpha=4.0, max_steps=1)
    began = time.perf_counter()
    seconds = next(
        time.perf_counter() - began
        for event in train(model, config, output=folder / "out" / "x.safetensors")
        if isinstance(event, Step)
    )
    return Row(
        f"from the call to the first step, {options.pictures} pictures, shrunken {family}", seconds, None, "", None, "s"
    )


def _notes(rows: list[Row], options: argparse.Namespace) -> Iterator[str]:
    for row in rows:
        if row.work.startswith("a batch"):
            yield f"{row.work}: {row.ours / options.step_ms:.2%} of a step of {options.step_ms:g} ms"


if __name__ == "__main__":
    main()
