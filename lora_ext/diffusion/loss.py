"""How far a prediction is from its target, and how much each timestep counts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lora_ext.diffusion.schedule import NoiseSchedule

LossType = Literal["mse", "l1", "huber", "smooth_l1"]
HuberSchedule = Literal["constant", "exponential", "snr"]

HIGHEST_SNR = 1000.0
"""sd-scripts' cap, so that the weights of the first, almost clean timesteps stay finite."""


@dataclass(frozen=True)
class LossRecipe:
    """What the loss is made of; the defaults are DDPM's plain one. `min_snr_gamma` 0 is off."""

    loss_type: LossType = "mse"
    huber_schedule: HuberSchedule = "snr"
    huber_c: float = 0.1
    huber_scale: float = 1.0
    min_snr_gamma: float = 0.0
    debiased: bool = False
    scale_v_loss: bool = False
    v_pred_like: float = 0.0


def mse(prediction: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared error: [B, ...] and [B, ...] to a float32 scalar on the same device (DDPM, eq. 14: L_simple).

    The mean goes over each sample's elements first, then over the batch; `weights` [B] multiplies in between.
    Raises `ValueError` when the shapes differ, which would otherwise be broadcast in silence.
    """
    _check(prediction, target)
    return _weighted((prediction.float() - target.float()).square().flatten(1).mean(1), weights)


def diffusion_loss(
    prediction: Tensor,
    target: Tensor,
    timesteps: Tensor,
    schedule: NoiseSchedule,
    recipe: LossRecipe,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """The loss of one batch [B, C, h, w] as `recipe` wants it: a float32 scalar.

    `weights` [B] counts samples (prior preservation); `mask` [B, 1, h, w] in 0..1 multiplies the error of each place,
    whose mean still goes over the whole picture (sd-scripts' `apply_masked_loss`). Raises `ValueError` for shapes
    that do not match.
    """
    if recipe == PLAIN and mask is None:
        return mse(prediction, target, weights)
    _check(prediction, target)
    errors = distance(prediction.float(), target.float(), timesteps, schedule, recipe)
    if mask is not None:
        if mask.shape != (len(prediction), 1, *prediction.shape[2:]):
            raise ValueError(f"mask {tuple(mask.shape)} does not fit predictions {tuple(prediction.shape)}")
        errors = errors * mask.float()
    per_sample = errors.flatten(1).mean(1) * timestep_weights(timesteps, schedule, recipe)
    return _weighted(per_sample, weights)


def distance(
    prediction: Tensor, target: Tensor, timesteps: Tensor, schedule: NoiseSchedule, recipe: LossRecipe
) -> Tensor:
    """The error of every element, in the shape of `prediction`.

    huber and smooth_l1 are the pseudo-Huber forms 2c(√(d²+c²) − c) and 2(√(d²+c²) − c) of sd-scripts, with c from
    `huber_border`.
    """
    apart = prediction - target
    if recipe.loss_type == "mse":
        return apart.square()
    if recipe.loss_type == "l1":
        return apart.abs()
    c = huber_border(timesteps, schedule, recipe).view(-1, *(1 for _ in prediction.shape[1:]))
    bent = 2 * ((apart.square() + c.square()).sqrt() - c)
    return bent * c if recipe.loss_type == "huber" else bent


def huber_border(timesteps: Tensor, schedule: NoiseSchedule, recipe: LossRecipe) -> Tensor:
    """c per sample [B] (sd-scripts' `get_huber_threshold_if_needed`).

    constant: c·scale. exponential: from scale at t = 0 to c·scale at t = T. snr: (1 − c) / (1 + σ)² + c with
    σ = √((1 − ᾱ)/ᾱ).
    """
    c, scale = recipe.huber_c, recipe.huber_scale
    if recipe.huber_schedule == "constant":
        return torch.full(timesteps.shape, c * scale, device=timesteps.device)
    if recipe.huber_schedule == "exponential":
        return torch.exp(timesteps * (math.log(c) / len(schedule))) * scale
    sigmas = schedule.snr[timesteps].rsqrt()  # ∞ at zero SNR, where the border is c
    return (1 - c) / (1 + sigmas).square() + c


def timestep_weights(timesteps: Tensor, schedule: NoiseSchedule, recipe: LossRecipe) -> Tensor:
    """How much each sample's timestep counts [B]; factors of several options multiply.

    min-SNR-γ (arXiv 2303.09556): min(SNR, γ)/SNR for ε, min(SNR, γ)/(SNR + 1) for v. Debiased estimation
    (arXiv 2310.08442): 1/√SNR for ε, 1/(SNR + 1) for v. `scale_v_loss`: SNR/(SNR + 1), the weight that turns a v loss
    into an ε loss. `v_pred_like` k: 1 + k·(SNR + 1)/SNR for ε, which adds k times the loss of v (sd-scripts'
    `add_v_prediction_like_loss`).
    """
    snr = schedule.snr[timesteps]
    capped = snr.clamp(max=HIGHEST_SNR)
    is_v = schedule.prediction_type == "v_prediction"
    weights = torch.ones_like(snr)
    if recipe.min_snr_gamma:
        gamma = recipe.min_snr_gamma
        weights = weights * (snr.clamp(max=gamma) / (snr + 1) if is_v else (gamma / snr).clamp(max=1.0))
    if recipe.debiased:
        weights = weights * (1 / (capped + 1) if is_v else capped.rsqrt())
    if recipe.scale_v_loss and is_v:
        weights = weights * (capped / (capped + 1))
    if recipe.v_pred_like and not is_v:
        weights = weights * (1 + recipe.v_pred_like * (capped + 1) / capped)
    return weights


PLAIN = LossRecipe()


def _check(prediction: Tensor, target: Tensor) -> None:
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape")


def _weighted(per_sample: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return per_sample.mean()
    if weights.shape != per_sample.shape:
        raise ValueError(f"weights {tuple(weights.shape)} must hold one number per sample {tuple(per_sample.shape)}")
    return (per_sample * weights.float()).mean()
