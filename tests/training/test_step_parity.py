"""One whole step with every option of noise and loss, worked out a second time: diffusers' scheduler and sd-scripts'
formulas, in their order, from the same random numbers.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from test_learner import batch, learner
from torch.nn import functional

from lora_ext.training.learner import generator

CPU = torch.device("cpu")
CASES = {
    "plain": {},
    "min-snr": {"min_snr_gamma": 5.0},
    "min-snr, low": {"min_snr_gamma": 0.5},
    "debiased": {"debiased": True},
    "huber, snr": {"loss_type": "huber", "huber_c": 0.2},
    "huber, exponential": {"loss_type": "huber", "huber_schedule": "exponential", "huber_c": 0.2, "huber_scale": 0.5},
    "huber, constant": {"loss_type": "huber", "huber_schedule": "constant", "huber_c": 0.2, "huber_scale": 2.0},
    "smooth l1, snr": {"loss_type": "smooth_l1", "huber_c": 0.3},
    "smooth l1, exponential": {"loss_type": "smooth_l1", "huber_schedule": "exponential"},
    "l1": {"loss_type": "l1"},
    "noise offset": {"noise_offset": 0.1},
    "adaptive noise offset": {"noise_offset": 0.1, "adaptive_noise_offset": 0.2},
    "multi-resolution noise": {"pyramid_levels": 6, "pyramid_discount": 0.4},
    "input perturbation": {"input_perturbation": 0.15},
    "masked": {"masked_loss": True},
    "prior preservation": {"prior_weight": 0.25},
    "several": {
        "min_snr_gamma": 5.0,
        "debiased": True,
        "noise_offset": 0.05,
        "input_perturbation": 0.1,
        "loss_type": "huber",
        "masked_loss": True,
    },
}
ONLY_NOISE = {
    "v-pred-like": {"v_pred_like_loss": 0.5},
    "v-pred-like, min-snr": {"v_pred_like_loss": 2.0, "min_snr_gamma": 5.0},
}
ONLY_V = {"scaled v loss": {"scale_v_loss": True}, "zero terminal": {"zero_terminal_snr": True, "min_snr_gamma": 5.0}}
ALL = [("sd1", n, v) for n, v in {**CASES, **ONLY_NOISE}.items()] + [
    ("sd2", n, v) for n, v in {**CASES, **ONLY_V}.items()
]


@pytest.mark.parametrize(("family", "name", "values"), ALL, ids=lambda x: x if isinstance(x, str) else "")
def test_the_loss_of_a_step(tmp_path, family, name, values):
    made = learner(tmp_path, family, **values)
    given = batch(family, tokens=False)
    mask = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(2)) if "masked_loss" in values else None
    weights = torch.tensor([1.0, values["prior_weight"]]) if "prior_weight" in values else None
    given = dataclasses.replace(given, latents=given.latents + 0.3, mask=mask, weights=weights)
    with torch.no_grad():
        got = made.loss(given).item()
        want = by_hand(made, given, values, family == "sd2")
    assert got == pytest.approx(want, rel=1e-5)


def by_hand(made, given, values, is_v):
    diffusers = pytest.importorskip("diffusers", reason="diffusers' scheduler is the peer of this check")
    scheduler = diffusers.DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        rescale_betas_zero_snr="zero_terminal_snr" in values,
    )
    source, dice = generator(0, "noise", CPU), generator(0, "dice", CPU)
    steps = torch.randint(0, 1000, (2,), generator=source)
    asked, entering = noises(given.latents, values, source, dice)
    noisy = scheduler.add_noise(given.latents, entering, steps)
    prediction = made._predict(given, noisy, steps)
    target = scheduler.get_velocity(given.latents, asked, steps) if is_v else asked
    alphas = scheduler.alphas_cumprod[steps].double()
    snr = alphas / (1 - alphas)
    error = element(prediction.double(), target.double(), steps, snr, values)
    if given.mask is not None:
        error = error * given.mask.double()
    loss = error.mean([1, 2, 3])
    if given.weights is not None:
        loss = loss * given.weights.double()
    return (loss * weight(snr, values, is_v)).mean().item()


def noises(latents, values, source, dice):
    noise = torch.randn(latents.shape, generator=source)
    if "noise_offset" in values:
        strength = values["noise_offset"]
        if "adaptive_noise_offset" in values:
            mean = torch.abs(latents.mean(dim=(2, 3), keepdim=True))
            strength = torch.clamp(strength + values["adaptive_noise_offset"] * mean, 0.0, None)
        noise = noise + strength * torch.randn((*latents.shape[:2], 1, 1), generator=source)
    for i in range(values.get("pyramid_levels", 0)):
        r = torch.rand((), generator=dice).item() * 2 + 2
        wide, high = max(1, int(latents.shape[3] / r**i)), max(1, int(latents.shape[2] / r**i))
        coarse = torch.randn((*latents.shape[:2], high, wide), generator=source)
        noise = (
            noise + functional.interpolate(coarse, latents.shape[2:], mode="bilinear") * values["pyramid_discount"] ** i
        )
        if wide == 1 or high == 1:
            break
    if "pyramid_levels" in values:
        noise = noise / noise.std()
    if "input_perturbation" not in values:
        return noise, noise
    return noise, noise + values["input_perturbation"] * torch.randn(latents.shape, generator=source)


def element(prediction, target, steps, snr, values):
    kind = values.get("loss_type", "mse")
    if kind == "mse":
        return functional.mse_loss(prediction, target, reduction="none")
    if kind == "l1":
        return functional.l1_loss(prediction, target, reduction="none")
    c, scale, schedule = values.get("huber_c", 0.1), values.get("huber_scale", 1.0), values.get("huber_schedule", "snr")
    if schedule == "exponential":
        border = torch.exp(-steps * (-math.log(c) / 1000)) * scale
    elif schedule == "snr":
        sigmas = ((1.0 - snr / (1 + snr)) / (snr / (1 + snr))) ** 0.5
        border = (1 - c) / (1 + sigmas) ** 2 + c
    else:
        border = torch.full((2,), c * scale)
    border = border.double().view(-1, 1, 1, 1)
    root = torch.sqrt((prediction - target) ** 2 + border**2) - border
    return 2 * border * root if kind == "huber" else 2 * root


def weight(snr, values, is_v):
    """sd-scripts' `apply_snr_weight`, `scale_v_prediction_loss_like_noise_prediction`, `add_v_prediction_like_loss` and
    `apply_debiased_estimation`, one after the other."""
    capped, loss = snr.clamp(max=1000), torch.ones_like(snr)
    if gamma := values.get("min_snr_gamma"):
        least = torch.minimum(snr, torch.full_like(snr, gamma))
        loss = loss * (least / (snr + 1) if is_v else least / snr)
    if "scale_v_loss" in values and is_v:
        loss = loss * (capped / (capped + 1))
    if more := values.get("v_pred_like_loss"):
        loss = loss + loss / (capped / (capped + 1)) * more
    if "debiased" in values:
        loss = loss * (1 / (capped + 1) if is_v else 1 / torch.sqrt(capped))
    return loss
