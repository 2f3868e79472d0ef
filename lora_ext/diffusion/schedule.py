"""The noise schedule a model was trained with: noise in, what to predict out.

Everything stays on the schedule's device; nothing here waits for a GPU.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction"]
Distribution = Literal["uniform", "sigmoid", "logit_normal", "cosmap"]


@dataclass(frozen=True)
class TimestepRange:
    """Which timesteps are trained, `low` included and `high` not, and which of them come more often."""

    low: int = 0
    high: int = 1000
    distribution: Distribution = "uniform"
    mean: float = 0.0
    spread: float = 1.0


class NoiseSchedule:
    """Discrete diffusion over T timesteps. `alphas_cumprod` [T] is ᾱ of DDPM (arXiv 2006.11239, eq. 4)."""

    def __init__(self, alphas_cumprod: Tensor, prediction_type: PredictionType) -> None:
        """Raises `ValueError` for a table that is no noise schedule or an unknown prediction type."""
        if prediction_type not in typing.get_args(PredictionType):
            raise ValueError(f"prediction_type is epsilon or v_prediction, not {prediction_type!r}")
        if alphas_cumprod.ndim != 1 or not len(alphas_cumprod):
            raise ValueError(f"alphas_cumprod is one number per timestep, not {tuple(alphas_cumprod.shape)}")
        table = alphas_cumprod.detach().to("cpu", torch.float64)
        if not bool(((table >= 0) & (table <= 1)).all()):  # also catches NaN
            raise ValueError("alphas_cumprod must lie between 0 and 1")
        self.prediction_type: PredictionType = prediction_type
        self.alphas_cumprod = table.float()
        self._signal = table.sqrt().float()
        self._noise = (1 - table).sqrt().float()
        self.snr = (table / (1 - table)).float()
        """Signal-to-noise ratio ᾱ / (1 − ᾱ) per timestep [T]."""

    @classmethod
    def default(cls, prediction_type: PredictionType = "epsilon", steps: int = 1000) -> NoiseSchedule:
        """Stable Diffusion's schedule: β linear in its square root ("scaled linear") from 0.00085 to 0.012."""
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, steps, dtype=torch.float64).square()
        return cls((1 - betas).cumprod(0), prediction_type)

    def __len__(self) -> int:
        """T, the number of timesteps."""
        return len(self.alphas_cumprod)

    @property
    def device(self) -> torch.device:
        """Where the tables are, and where `sample_timesteps` puts its timesteps."""
        return self.alphas_cumprod.device

    def to(self, device: torch.device | str) -> NoiseSchedule:
        """The same schedule with its tables on `device`."""
        moved = NoiseSchedule.__new__(NoiseSchedule)
        moved.prediction_type = self.prediction_type
        moved.alphas_cumprod = self.alphas_cumprod.to(device)
        moved._signal = self._signal.to(device)
        moved._noise = self._noise.to(device)
        moved.snr = self.snr.to(device)
        return moved

    def with_zero_terminal_snr(self) -> NoiseSchedule:
        """The same schedule with √ᾱ shifted and stretched so that the last timestep is pure noise and the first stays.

        Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed" (arXiv 2305.08891, alg. 1).
        """
        root = self.alphas_cumprod.double().sqrt()
        first, last = root[0], root[-1]
        stretched = (root - last) * first / (first - last)
        return NoiseSchedule(stretched.square(), self.prediction_type).to(self.device)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = √ᾱ·x₀ + √(1−ᾱ)·ε (DDPM, eq. 4). [B, C, h, w] twice and int64 [B] to float32 [B, C, h, w]."""
        signal, sigma = self._rates(latents, timesteps)
        return signal * latents.float() + sigma * noise.float()

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the model should predict, float32 [B, C, h, w]: ε, or v = √ᾱ·ε − √(1−ᾱ)·x₀.

        v is Salimans & Ho 2022 (arXiv 2202.00512, appendix D).
        """
        if self.prediction_type == "epsilon":
            return noise.float()
        signal, sigma = self._rates(latents, timesteps)
        return signal * noise.float() - sigma * latents.float()

    def sample_timesteps(self, n: int, generator: torch.Generator, of: TimestepRange | None = None) -> Tensor:
        """Timesteps, int64 [n] on the schedule's device; all alike (DDPM, algorithm 1 line 3) unless `of` says else.

        sigmoid is σ(spread·z) and logit_normal σ(mean + spread·z) with normal z, cosmap 1 − 1/(tan(π/2·u) + 1) with
        uniform u (Esser et al. 2024, arXiv 2403.03206, 3.1), each stretched over the range.

        Drawn where `generator` lives: one on the schedule's own device costs no transfer, one on the CPU gives the same
        numbers on every device.
        """
        low, high = (of.low, min(of.high, len(self))) if of else (0, len(self))
        if of is None or of.distribution == "uniform":
            drawn = torch.randint(low, high, (n,), generator=generator, device=generator.device)
        else:
            drawn = (low + (high - low) * _position(n, of, generator)).long().clamp(low, high - 1)
        return drawn.to(self.device, non_blocking=True)

    def _rates(self, like: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1,) + (1,) * (like.ndim - 1)
        return self._signal[timesteps].view(shape), self._noise[timesteps].view(shape)


def _position(n: int, of: TimestepRange, generator: torch.Generator) -> Tensor:
    """Where in the range, [n] in 0..1."""
    if of.distribution == "cosmap":
        even = torch.rand(n, generator=generator, device=generator.device)
        return 1 - 1 / (torch.tan(torch.pi / 2 * even) + 1)
    normal = torch.randn(n, generator=generator, device=generator.device)
    return torch.sigmoid((of.mean if of.distribution == "logit_normal" else 0.0) + of.spread * normal)
