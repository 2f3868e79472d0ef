"""First stage of the base model: an autoencoder, pictures to latents an eighth as wide and back."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from demo import muon
from demo.base_state import Progress

KL_WEIGHT = 2e-4
"""Per latent number. Keeps the latents near unit size and a little blurred, which the UNet finds easier to hit."""
EDGE_WEIGHT = 0.25
LED = 400
"""Steps over which the first three latents are led, ever less, to the mean colour of their cell.

Left alone, the autoencoder takes a thousand steps to find out that there is more than light and dark.
"""
BATCH = 8
BLUR = 0.03
"""Noise on the latents that the polished decoder must bear: the UNet will not hit them exactly either."""


def train(vae: AutoencoderKL, pictures: Tensor, steps: int, seed: int, folder: Path, bf16: bool) -> None:
    """Train `vae` in place on `pictures` (uint8 [N, side, side, 3]); resumes from `folder`."""
    optimizer = muon.optimizer(vae.parameters())
    progress = Progress(folder, "vae", steps, seed)
    vae.train()
    device = vae.device
    for step in progress.run({"vae": vae}, optimizer, peak=1.5e-3):
        random = progress.generator(step)
        batch = signed(pictures[torch.randint(len(pictures), (BATCH,), generator=random)]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            posterior = vae.encode(batch).latent_dist
            mean, spread = posterior.mean.float(), posterior.logvar.float()
            noise = torch.randn(mean.shape, generator=random).to(device)
            back = vae.decode(mean + (spread / 2).exp() * noise).sample.float()
        flat = (back - batch).abs().mean()
        square = (back - batch).square().mean()
        edge = edges(back - batch)
        kl = 0.5 * (mean.square() + spread.exp() - 1 - spread).mean()
        lead = max(1 - step / LED, 0.0) * (mean[:, :3] - 2 * functional.avg_pool2d(batch, 8)).square().mean()
        optimizer.zero_grad()
        (flat + square + lead + EDGE_WEIGHT * edge + KL_WEIGHT * kl).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        progress.note(l1=flat.item(), edge=edge.item(), kl=kl.item(), mse=square.item(), lead=lead.item())


def polish(vae: AutoencoderKL, latents: Tensor, pictures: Tensor, steps: int, seed: int, folder: Path) -> None:
    """Train the decoder alone, further, on latents [N, 4, h, w] that stay as they are; so the UNet need not wait."""
    learnt = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    optimizer = muon.optimizer(learnt)
    progress = Progress(folder, "decoder", steps, seed + 1)
    device = vae.device
    modules: dict[str, torch.nn.Module] = {"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv}
    for step in progress.run(modules, optimizer, peak=1e-3):
        random = progress.generator(step)
        chosen = torch.randint(len(latents), (BATCH,), generator=random)
        batch, clean = signed(pictures[chosen]).to(device), latents[chosen]
        blurred = (clean + BLUR * torch.randn(clean.shape, generator=random)).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            back = vae.decode(blurred).sample.float()
        square = (back - batch).square().mean()
        edge = edges(back - batch)
        optimizer.zero_grad()
        torch.autograd.backward((back - batch).abs().mean() + square + EDGE_WEIGHT * edge)
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        progress.note(edge=edge.item(), mse=square.item())


def edges(difference: Tensor) -> Tensor:
    """Mean size of the steps between neighbouring pixels of a difference [B, 3, H, W]: keeps outlines sharp."""
    across = (difference[..., 1:] - difference[..., :-1]).abs().mean()
    down = (difference[..., 1:, :] - difference[..., :-1, :]).abs().mean()
    return across + down


def signed(pictures: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] as float [B, 3, H, W] in -1..1."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: Tensor) -> float:
    """Mean round-trip PSNR in dB over uint8 pictures, computed on rounded 8-bit colours."""
    total = 0.0
    for part in torch.split(pictures, 16):
        back = vae.decode(vae.encode(signed(part).to(vae.device)).latent_dist.mean).sample.clamp(-1, 1)
        levels = ((back + 1) * 127.5).round().permute(0, 2, 3, 1).cpu()
        error = (levels - part.float()).square().flatten(1).mean(1)
        total += float((10 * torch.log10(255.0**2 / error)).sum())
    return total / len(pictures)
