"""One LoRA training step: ours against diffusers + peft, on the same UNet and the same batch, turn by turn.

`python -m benchmarks.step [--json] [--size sd15] [--device cuda] [--precision bf16] …`. Each side lives in a process of
its own, so that its memory is its own; the two take their steps alternately (with `--apart` one is over before the
other begins, for a machine that cannot hold both), and medians are shown. A step is: noise, prediction, loss, backward,
clipping, AdamW, zeroed gradients. Both sides train rank-32 factors of the layers that kohya
trains (192 of SD1.5, 722 of SDXL), over the same frozen weights in the same precision. What each of our options costs
is told by `benchmarks.step_options`, and whether data keeps a step waiting by `benchmarks.data`.

The limit is the step's floating-point work, counted by torch, at the rate of this machine's best matrix product.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch.nn import functional

from benchmarks.report import Row, show
from benchmarks.step_model import RANK, SIZES, Step, Work, our_step, timed, weights
from lora_ext.model import (
    Conditioning,
    added_conditioning,
    build_unet,
    checkpoint_gradients,
    default_targets,
    layer_table,
)
from lora_ext.training.precision import DTYPES

Pair = tuple[float, float]
"""Ours, the peer's."""
WARM_UP = 2


def main() -> None:
    """Run one side when told so, else both, and print the rows."""
    options = _options()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.side:
        _worker(options)
    else:
        _compare(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument(
        "--size",
        choices=SIZES,
        default="small",
        help="small: SD1.5 at half width, small-sdxl: SDXL at a fifth, both 256 px; the others are the real ones",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 …")
    parser.add_argument("--precision", choices=DTYPES, default="fp32", help="of the frozen weights and the arithmetic")
    parser.add_argument("--batch", type=int, default=1, help="pictures per step")
    parser.add_argument("--pixels", type=int, default=0, help="per side, when not the size's own; a multiple of 64")
    parser.add_argument("--apart", action="store_true", help="first all of our steps, then all of the peer's")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing on both sides")
    parser.add_argument("--steps", type=int, default=7, help="counted steps of each side, after two that warm up")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of each side")
    parser.add_argument("--side", choices=("ours", "peer"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.pixels % 64 or options.pixels < 0:
        parser.error(f"--pixels must be a multiple of 64, not {options.pixels}")
    return options


def _compare(options: argparse.Namespace) -> None:
    device = torch.device(options.device)
    (mine, theirs), memory, flops = _apart(options.steps) if options.apart else _in_turns(options.steps)
    rate = _matmul_rate(device, options.precision)
    work = f"{options.size}, {options.precision}, batch {options.batch}"
    work += f", {options.pixels} px" if options.pixels else ""
    work += ", checkpointing" if options.checkpointing else ""
    name = _peer_name()
    rows = [Row(f"{work}: step", mine, theirs, name, flops[0] / rate, "s")]
    notes = [
        f"{flops[0] / 1e12:.3g} TFLOP a step (peer {flops[1] / 1e12:.3g}); best matrix product {rate / 1e12:.3g} "
        f"TFLOP/s; share of it reached: ours {flops[0] / rate / mine:.0%}, peer {flops[1] / rate / theirs:.0%}"
    ]
    if memory[0]:
        rows.append(Row(f"{work}: peak memory", memory[0] / 1e6, memory[1] / 1e6, name, None, "MB"))
    else:
        notes.append("MEMORY NOT MEASURED: on a CPU it is read from Linux' /proc.")
    show(rows, device, as_json=options.json, notes=notes)


def _in_turns(steps: int) -> tuple[Pair, Pair, Pair]:
    """Seconds of the median step, bytes at the peak and FLOP of a step; ours and the peer's."""
    with _Side("ours") as ours, _Side("peer") as peer:
        seconds = [(ours.ask("step"), peer.ask("step")) for _ in range(steps + WARM_UP)][WARM_UP:]
        mine, theirs = (statistics.median(side) for side in zip(*seconds, strict=True))
        return (mine, theirs), (ours.ask("memory"), peer.ask("memory")), (ours.ask("flops"), peer.ask("flops"))


def _apart(steps: int) -> tuple[Pair, Pair, Pair]:
    """The same, but the peer starts when ours has given its memory back: what else the machine does then differs."""
    found = []
    for name in ("ours", "peer"):
        with _Side(name) as side:
            seconds = [side.ask("step") for _ in range(steps + WARM_UP)][WARM_UP:]
            found.append((statistics.median(seconds), side.ask("memory"), side.ask("flops")))
    mine, theirs = found
    return (mine[0], theirs[0]), (mine[1], theirs[1]), (mine[2], theirs[2])


class _Side:
    """The other end of a process that runs one side; takes its turns when asked."""

    def __init__(self, name: str) -> None:
        self._command = [sys.executable, "-m", "benchmarks.step", *sys.argv[1:], "--side", name]

    def __enter__(self) -> _Side:
        here = Path(__file__).resolve().parent.parent
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=here, bufsize=1
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def ask(self, what: str) -> float:
        """Ask and wait: one side is idle while the other works."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(what + "\n")
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit(f"a side broke off (exit {self._process.wait()}); see its message above")
        return float(json.loads(answer))


def _worker(options: argparse.Namespace) -> None:
    device = torch.device(options.device)
    torch.manual_seed(0)
    work = Work(options.size, options.precision, options.batch, device, options.pixels)
    step = {"ours": _ours, "peer": _peer}[options.side](work, options.checkpointing)
    step()  # the optimizer's state and every kernel's workspace exist from here on
    _forget_peak(device)
    answers = {
        "step": partial(timed, device, step),
        "memory": partial(_peak_bytes, device),
        "flops": partial(_flops, step),
    }
    for line in sys.stdin:
        print(json.dumps(answers[line.strip()]()), flush=True)


def _ours(work: Work, checkpointing: bool) -> Step:
    return our_step(work, work.live(), {"checkpointing": checkpointing})


def _peer(work: Work, checkpointing: bool) -> Step:
    """As diffusers' own script for text-to-image LoRAs does it, without its logging."""
    from diffusers import DDPMScheduler  # noqa: PLC0415 - each side imports what it needs, its memory is measured
    from peft import LoraConfig  # noqa: PLC0415

    arch, device, precision = work.model, work.device, work.precision
    table = layer_table(arch)
    unet = build_unet(arch, weights(arch, precision, device))
    targets = [layer.module for layer in default_targets(table, conv=False) if layer.name.component == "unet"]
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK // 2, init_lora_weights=True, target_modules=targets))
    if checkpointing:
        checkpoint_gradients(unet)
    trained = [p for p in unet.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    cuda = device.type == "cuda"
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01, fused=cuda or None)
    make = torch.amp.GradScaler if hasattr(torch.amp, "GradScaler") else torch.cuda.amp.GradScaler
    scaler = make(enabled=cuda and precision == "fp16")
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    given = work.given()
    latents, text = given.latents, given.text
    assert isinstance(text, Conditioning)
    added = added_conditioning(arch, text.pooled, given.sizes)

    def step() -> None:
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, 1000, (len(latents),), device=device)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        with _autocast(precision, device):
            predicted = unet(noisy, timesteps, text.context, added_cond_kwargs=added, return_dict=False)[0]
        loss = functional.mse_loss(predicted.float(), noise.float())
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return step


@contextlib.contextmanager
def _autocast(precision: str, device: torch.device) -> Iterator[None]:
    with torch.autocast(device.type, DTYPES[precision]) if precision != "fp32" else contextlib.nullcontext():
        yield


def _flops(step: Step) -> float:
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415 - only after the memory was read

    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops())


def _matmul_rate(device: torch.device, precision: str) -> float:
    """FLOP/s of the best of several large matrix products in the step's precision."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=DTYPES[precision]) for _ in range(2))
    best = min(timed(device, lambda: torch.mm(a, b)) for _ in range(10))
    return 2 * size**3 / best


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif os.path.exists("/proc/self/clear_refs"):
        with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")  # the kernel's word for: the peak starts from now


def _peak_bytes(device: torch.device) -> float:
    """Largest memory since `_forget_peak`: torch's on a card, the whole process's on a CPU; 0 where none can tell."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(float(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except OSError:
        return 0.0


def _peer_name() -> str:
    return f"diffusers {version('diffusers')} + peft {version('peft')}"


if __name__ == "__main__":
    main()
