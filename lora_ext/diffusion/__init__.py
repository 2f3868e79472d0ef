"""The maths of noise and loss."""

from lora_ext.diffusion.loss import LossRecipe, diffusion_loss, mse
from lora_ext.diffusion.noise import Noise, NoiseRecipe, draw_noise
from lora_ext.diffusion.schedule import NoiseSchedule, PredictionType, TimestepRange

__all__ = [
    "LossRecipe",
    "Noise",
    "NoiseRecipe",
    "NoiseSchedule",
    "PredictionType",
    "TimestepRange",
    "diffusion_loss",
    "draw_noise",
    "mse",
]
