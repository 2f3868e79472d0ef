"""What each option of the trainer costs: a step with it and a plain one, turn by turn on the same weights.

`python -m benchmarks.step_options [--json] [--size sdxl] [--device cuda] [--precision bf16] [--only dora …]`. The peer
is our own plain step, so that a ratio of 0.9 means: a tenth slower than without. On a card the memory at its peak is
told as well. What needs a package or a card that is not there is named, and not measured.
"""

from __future__ import annotations

import argparse
import gc
import statistics
from collections.abc import Iterator, Mapping
from importlib.util import find_spec

import torch

from benchmarks.report import Row, show
from benchmarks.step_model import SIZES, LiveWeights, Step, Work, our_step, timed
from lora_ext.errors import BadInput
from lora_ext.training.precision import DTYPES

OPTIONS: Mapping[str, Mapping[str, object]] = {
    "l1": {"loss_type": "l1"},
    "huber": {"loss_type": "huber", "huber_schedule": "snr"},
    "min_snr": {"min_snr_gamma": 5.0},
    "debiased": {"debiased": True},
    "noise_offset": {"noise_offset": 0.05},
    "pyramid": {"pyramid_levels": 6},
    "perturbation": {"input_perturbation": 0.1},
    "zero_snr": {"zero_terminal_snr": True},
    "masked": {"masked_loss": True},
    "logit_normal": {"timestep_distribution": "logit_normal"},
    "ema": {"ema_decay": 0.999},
    "no_clipping": {"max_grad_norm": 0.0},
    "dropout": {"dropout": 0.1},
    "rank_dropout": {"rank_dropout": 0.1},
    "module_dropout": {"module_dropout": 0.1},
    "weight_dropout": {"weight_dropout": 0.1},
    "conv": {"conv_rank": 8},
    "norms": {"train_norms": True},
    "dora": {"dora": True},
    "loha": {"kind": "loha", "rank": 8},
    "lokr": {"kind": "lokr"},
    "oft": {"kind": "oft", "rank": 8},
    "ia3": {"kind": "ia3"},
    "full": {"kind": "full"},
    "adamw8bit": {"optimizer": "adamw8bit"},
    "adafactor": {"optimizer": "adafactor"},
    "lion": {"optimizer": "lion"},
    "prodigy": {"optimizer": "prodigy", "learning_rate": 1.0},
    "schedulefree": {"optimizer": "adamw_schedulefree"},
    "came": {"optimizer": "came"},
    "checkpointing": {"checkpointing": True},
    "checkpointing_large": {"checkpointing": True, "checkpointing_where": "large"},
    "xformers": {"attention": "xformers"},
    "8bit": {"base_weights": "8bit"},
    "4bit": {"base_weights": "4bit"},
}
ON_CARDS = {"adamw8bit": "bitsandbytes", "8bit": "bitsandbytes", "4bit": "bitsandbytes", "xformers": "xformers"}
"""What works on a card only, and with which package."""


def main() -> None:
    """Measure one option after the other and print them."""
    options = _options()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    work = Work(options.size, options.precision, options.batch, torch.device(options.device))
    live = work.live()
    rows: list[Row] = []
    notes: list[str] = []
    for name in options.only:
        why = _missing(name, work.device)
        try:
            if not why:
                rows += _rows(name, work, live, options.steps)
        except (BadInput, torch.cuda.OutOfMemoryError) as e:
            why = " ".join(str(e).split())
        if why:
            notes.append(f"NOT MEASURED: {name}: {why}")
        gc.collect()
    show(rows, work.device, as_json=options.json, notes=notes)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--size", choices=SIZES, default="small", help="as in benchmarks.step")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 …")
    parser.add_argument("--precision", choices=DTYPES, default="fp32", help="of the frozen weights and the arithmetic")
    parser.add_argument("--batch", type=int, default=1, help="pictures per step")
    parser.add_argument("--steps", type=int, default=5, help="counted steps of each side, after two that warm up")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads")
    parser.add_argument("--only", nargs="+", choices=OPTIONS, default=list(OPTIONS), help="some of the options")
    return parser.parse_args()


def _missing(name: str, device: torch.device) -> str:
    package = ON_CARDS.get(name)
    if package is None:
        return ""
    if device.type != "cuda":
        return "it is made for a card"
    return "" if find_spec(package) else f"the package {package} is not installed"


def _rows(name: str, work: Work, live: LiveWeights, steps: int) -> Iterator[Row]:
    """Medians of steps taken in turns; on a card, both sides' peaks of memory as well."""
    sides: tuple[Step, Step] = our_step(work, live, OPTIONS[name]), our_step(work, live, {})
    seconds = [tuple(timed(work.device, side) for side in sides) for _ in range(steps + 2)][2:]
    mine, plain = (statistics.median(side) for side in zip(*seconds, strict=True))
    what = f"{work.size}, {work.precision}, batch {work.batch}: step with {name}"
    yield Row(what, mine, plain, "plain step", None, "s")
    if work.device.type == "cuda":
        mine, plain = (_peak(work.device, side) for side in sides)
        yield Row(f"{what}, memory above what rests", mine, plain, "plain step", None, "MB")


def _peak(device: torch.device, step: Step) -> float:
    """MB that a step needs beyond what both sides hold all the time."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 1e6


if __name__ == "__main__":
    main()
