"""What the benchmarks of a training step share: models of random weights, a batch of noise, and our step over them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.apply import SD15
from lora_ext.config import TrainConfig, read
from lora_ext.diffusion import NoiseSchedule
from lora_ext.layers import LayerTable
from lora_ext.model import Architecture, Conditioning, layer_table
from lora_ext.model.unet_parts import unet_parts
from lora_ext.training.learner import Learner
from lora_ext.training.material import Batch
from lora_ext.training.optimizer import Stepper
from lora_ext.training.precision import DTYPES, Arithmetic

RANK = 32
SDXL = replace(
    SD15,
    family="sdxl",
    unet=replace(
        SD15.unet,
        channels=(320, 640, 1280),
        depth=(0, 2, 10),
        middle_depth=10,
        heads=(5, 10, 20),
        context_dim=2048,
        linear_projection=True,
        added_dim=2816,
    ),
)
SMALL = replace(SD15, unet=replace(SD15.unet, channels=(160, 320, 640, 640)))
SMALL_XL = replace(SDXL, unet=replace(SDXL.unet, channels=(64, 128, 256), heads=(1, 2, 4)))
SIZES: Mapping[str, tuple[Architecture, int]] = {
    "small": (SMALL, 256),
    "small-sdxl": (SMALL_XL, 256),
    "sd15": (SD15, 512),
    "sdxl": (SDXL, 1024),
}
"""Model and pixels per side. The small ones are the real depth at half the width (SDXL: a fifth), for a CPU."""
POOLED = 1280
"""Width of SDXL's pooled text; with six sizes of 256 numbers each it makes up `added_dim`."""

Step = Callable[[], None]


@dataclass(frozen=True)
class Work:
    """What a step is done on."""

    size: str
    precision: str
    batch: int
    device: torch.device
    pixels: int = 0
    """Per side; 0: the size's own. With fewer, every layer keeps its shape and has less to work on."""

    @property
    def model(self) -> Architecture:
        """Of the size."""
        return SIZES[self.size][0]

    def given(self) -> Batch:
        """A batch of noise."""
        arch, own = SIZES[self.size]
        pixels = self.pixels or own
        dtype = DTYPES[self.precision]
        latents = torch.randn(self.batch, 4, pixels // 8, pixels // 8, device=self.device)
        context = torch.randn(self.batch, 77, arch.unet.context_dim, device=self.device, dtype=dtype)
        pooled = torch.randn(self.batch, POOLED, device=self.device, dtype=dtype) if arch.unet.added_dim else None
        sizes = torch.tensor([[pixels, pixels, 0, 0, pixels, pixels]] * self.batch, device=self.device)
        return Batch(latents, Conditioning(context, pooled), sizes)

    def live(self) -> LiveWeights:
        """The weights, which several learners may share."""
        return LiveWeights(self.model, weights(self.model, self.precision, self.device), self.device)


class LiveWeights:
    """As much of a `LiveModel` as a step needs."""

    def __init__(self, arch: Architecture, tensors: dict[str, Tensor], device: torch.device) -> None:
        self.architecture, self.tensors, self.device = arch, tensors, device
        self.table: LayerTable = layer_table(arch)
        self.alphas_cumprod = NoiseSchedule.default().alphas_cumprod


class _Nowhere:
    """A session whose parts are all where they should be."""

    def place(self, *parts: str) -> None:
        """Nothing to move."""


def our_step(work: Work, live: LiveWeights, options: Mapping[str, object]) -> Step:
    """A whole step with these settings beside the usual ones. Raises `BadInput` for what is not to be had here."""
    usual = {"images": "-", "output": "-", "rank": RANK, "alpha": RANK / 2}
    config = read(TrainConfig, {**usual, **options})
    arithmetic = Arithmetic.choose(work.precision, work.device)
    learner = Learner(live, _Nowhere(), config, arithmetic)  # type: ignore[arg-type]
    stepper = Stepper(learner.groups(), config.optim, work.device, arithmetic.scales_loss)
    batch = work.given()
    if config.loss.masked_loss:
        batch = replace(batch, mask=torch.ones_like(batch.latents[:, :1]))

    def step() -> None:
        stepper.backward(learner.loss(batch))
        stepper.step(1.0)

    return step


def weights(arch: Architecture, precision: str, device: torch.device) -> dict[str, Tensor]:
    """Random weights of the UNet by checkpoint key, each near what keeps its layer's output as large as its input."""
    made: dict[str, Tensor] = {}
    for part in unet_parts(arch.unet):
        wide = math.prod(part.shape[1:])
        weight = torch.ones(part.shape) if part.op == "norm" else torch.randn(part.shape) * wide**-0.5
        made[part.key] = weight.to(device, DTYPES[precision])
        if part.bias:
            made[part.bias] = torch.zeros(part.shape[0], device=device, dtype=DTYPES[precision])
    return made


def timed(device: torch.device, work: Step) -> float:
    """Seconds until the device is done with it."""
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    """Until nothing is left in a card's queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
