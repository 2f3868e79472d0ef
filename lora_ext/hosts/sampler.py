"""One picture from built modules: Euler's method over the noise schedule, with classifier-free guidance.

The sampler is diffusers' `EulerDiscreteScheduler`, made by hand from the model's own schedule, so nothing is ever
looked up on a hub. Noise comes from a private CPU generator: the same seed starts from the same noise on any device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from diffusers import EulerDiscreteScheduler
from PIL import Image
from torch import Tensor, nn

from lora_ext.live import RenderRequest
from lora_ext.model.architecture import Architecture, PredictionType


@dataclass(frozen=True)
class Guidance:
    """Conditioning of one picture, the negative prompt first.

    `context` [2, tokens, C]; `added` is what SDXL's UNet takes besides (None otherwise); `beside` [1, 5, h, w] is the
    mask and the masked picture that an inpainting UNet sees beside the latents (None otherwise).
    """

    context: Tensor
    added: Mapping[str, Tensor] | None
    beside: Tensor | None
    scale: float


def euler(alphas_cumprod: Tensor, prediction_type: PredictionType, steps: int) -> EulerDiscreteScheduler:
    """Euler's method in `steps` steps over a noise schedule [T], spaced as k-diffusion does."""
    before = torch.cat([torch.ones(1), alphas_cumprod[:-1].cpu()])
    betas = 1 - alphas_cumprod.cpu() / before
    scheduler = EulerDiscreteScheduler(
        num_train_timesteps=len(betas),
        trained_betas=betas.tolist(),
        prediction_type=prediction_type,
        timestep_spacing="linspace",
    )
    scheduler.set_timesteps(steps, device="cpu")
    return scheduler


def first_noise(arch: Architecture, request: RenderRequest) -> tuple[Tensor, torch.Generator]:
    """Noise [1, 4, h, w] for a seed, float32 on the CPU, and the generator to go on with."""
    generator = torch.Generator("cpu").manual_seed(request.seed)
    cells = (request.height // arch.vae.factor, request.width // arch.vae.factor)
    return torch.randn((1, arch.vae.latent_channels, *cells), generator=generator), generator


def denoise(
    unet: nn.Module,
    scheduler: EulerDiscreteScheduler,
    noise: Tensor,
    generator: torch.Generator,
    guidance: Guidance,
    before_step: Callable[[int], None] = lambda step: None,
) -> Tensor:
    """Latents [1, 4, h, w], float32 on the CPU. The UNet runs in its own dtype on its own device.

    `before_step` is called with the number of steps done; it may change the UNet's weights in place.
    """
    weight = next(unet.parameters())
    latents: Tensor = noise * scheduler.init_noise_sigma
    for step, t in enumerate(scheduler.timesteps):
        before_step(step)
        # Arithmetic of the steps stays in float32 on the CPU: a latent is a few kilobytes, exactness is worth more.
        scaled = scheduler.scale_model_input(latents, t).to(weight.device, weight.dtype)
        guess = _guided(unet, scaled, t.to(weight.device), guidance)
        latents = scheduler.step(guess.float().cpu(), t, latents, generator=generator).prev_sample
    return latents


def _guided(unet: nn.Module, latents: Tensor, t: Tensor, guidance: Guidance) -> Tensor:
    """The UNet's guess pushed away from the negative prompt (arXiv 2207.12598 eq. 6, w = scale - 1)."""
    both = latents.expand(2, -1, -1, -1)
    if guidance.beside is not None:
        both = torch.cat([both, guidance.beside.expand(2, -1, -1, -1)], dim=1)
    out = unet(both, t, encoder_hidden_states=guidance.context, added_cond_kwargs=guidance.added).sample.float()
    negative, positive = out.chunk(2)
    guess: Tensor = negative + guidance.scale * (positive - negative)
    return guess


def to_picture(decoded: Tensor) -> Image.Image:
    """A decoded picture [3, H, W] in -1..1 as RGB."""
    levels = ((decoded.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().cpu().numpy())
