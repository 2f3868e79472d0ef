"""The maths of noise and loss."""

from lora_ext.diffusion.loss import mse
from lora_ext.diffusion.schedule import NoiseSchedule, PredictionType

__all__ = ["NoiseSchedule", "PredictionType", "mse"]
