"""The settings of noise and loss as the diffusion room takes them."""

from __future__ import annotations

from typing import cast

from lora_ext.config import LossConfig
from lora_ext.diffusion import LossRecipe, NoiseRecipe, TimestepRange
from lora_ext.diffusion.loss import HuberSchedule, LossType
from lora_ext.diffusion.schedule import Distribution


def loss_recipe(loss: LossConfig) -> LossRecipe:
    """How mistakes are measured and weighed."""
    return LossRecipe(
        loss_type=cast(LossType, loss.loss_type),
        huber_schedule=cast(HuberSchedule, loss.huber_schedule),
        huber_c=loss.huber_c,
        huber_scale=loss.huber_scale,
        min_snr_gamma=loss.min_snr_gamma,
        debiased=loss.debiased,
        scale_v_loss=loss.scale_v_loss,
        v_pred_like=loss.v_pred_like_loss,
    )


def noise_recipe(loss: LossConfig) -> NoiseRecipe:
    """What is done to plain noise."""
    return NoiseRecipe(
        offset=loss.noise_offset,
        offset_random=loss.noise_offset_random,
        adaptive_offset=loss.adaptive_noise_offset,
        pyramid_levels=loss.pyramid_levels,
        pyramid_discount=loss.pyramid_discount,
        perturbation=loss.input_perturbation,
        perturbation_random=loss.input_perturbation_random,
    )


def timestep_range(loss: LossConfig) -> TimestepRange:
    """Which timesteps are trained."""
    return TimestepRange(
        low=loss.timestep_min,
        high=loss.timestep_max,
        distribution=cast(Distribution, loss.timestep_distribution),
        mean=loss.timestep_mean,
        spread=loss.timestep_spread,
    )
