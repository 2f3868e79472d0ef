"""First stage of the base model: an autoencoder, pictures to latents an eighth as wide and back."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from demo.base_state import Progress

KL_WEIGHT = 2e-4
"""Per latent number. Keeps the latents near unit size and a little blurred, which the UNet finds easier to hit."""
EDGE_WEIGHT = 0.25
BATCH = 8


def train(vae: AutoencoderKL, pictures: Tensor, steps: int, seed: int, folder: Path, bf16: bool) -> None:
    """Train `vae` in place on `pictures` (uint8 [N, side, side, 3]); resumes from `folder`."""
    optimizer = torch.optim.AdamW(vae.parameters(), betas=(0.9, 0.99), weight_decay=1e-4)
    progress = Progress(folder, "vae", steps, seed)
    vae.train()
    for step in progress.run({"vae": vae}, optimizer, peak=1.5e-3):
        random = progress.generator(step)
        batch = some(pictures, BATCH, random)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            posterior = vae.encode(batch).latent_dist
            mean, spread = posterior.mean.float(), posterior.logvar.float()
            noise = torch.randn(mean.shape, generator=random)
            back = vae.decode(mean + (spread / 2).exp() * noise).sample.float()
        flat = (back - batch).abs().mean()
        square = (back - batch).square().mean()
        edge = edges(back - batch)
        kl = 0.5 * (mean.square() + spread.exp() - 1 - spread).mean()
        optimizer.zero_grad()
        (flat + square + EDGE_WEIGHT * edge + KL_WEIGHT * kl).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        progress.note(l1=flat.item(), edge=edge.item(), kl=kl.item(), mse=square.item())


def edges(difference: Tensor) -> Tensor:
    """Mean size of the steps between neighbouring pixels of a difference [B, 3, H, W]: keeps outlines sharp."""
    across = (difference[..., 1:] - difference[..., :-1]).abs().mean()
    down = (difference[..., 1:, :] - difference[..., :-1, :]).abs().mean()
    return across + down


def some(pictures: Tensor, count: int, random: torch.Generator) -> Tensor:
    """`count` random pictures, float [count, 3, side, side] in -1..1."""
    return signed(pictures[torch.randint(len(pictures), (count,), generator=random)])


def signed(pictures: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] as float [B, 3, H, W] in -1..1."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Tensor, size: int = 32) -> Tensor:
    """Means of the posterior [N, 4, side / 8, side / 8] for uint8 pictures."""
    parts = [vae.encode(signed(part)).latent_dist.mean for part in torch.split(pictures, size)]
    return torch.cat(parts)


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: Tensor) -> float:
    """Mean round-trip PSNR in dB over uint8 pictures, computed on rounded 8-bit colours."""
    total = 0.0
    for part in torch.split(pictures, 16):
        back = vae.decode(vae.encode(signed(part)).latent_dist.mean).sample.clamp(-1, 1)
        levels = ((back + 1) * 127.5).round().permute(0, 2, 3, 1)
        error = (levels - part.float()).square().flatten(1).mean(1)
        total += float((10 * torch.log10(255.0**2 / error)).sum())
    return total / len(pictures)
