"""How far a prediction is from its target."""

from __future__ import annotations

from torch import Tensor


def mse(prediction: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared error: [B, ...] and [B, ...] to a float32 scalar on the same device (DDPM, eq. 14: L_simple).

    The mean goes over each sample's elements first, then over the batch; `weights` [B] multiplies in between.
    Raises `ValueError` when the shapes differ, which would otherwise be broadcast in silence.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape")
    per_sample = (prediction.float() - target.float()).square().flatten(1).mean(1)
    if weights is None:
        return per_sample.mean()
    if weights.shape != per_sample.shape:
        raise ValueError(f"weights {tuple(weights.shape)} must hold one number per sample {tuple(per_sample.shape)}")
    return (per_sample * weights.float()).mean()
