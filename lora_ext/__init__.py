"""Train LoRA-family adapters on a live Stable Diffusion model and apply them exactly."""

__version__ = "0.1.0"
