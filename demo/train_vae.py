"""First stage of the base model: an autoencoder, pictures to latents an eighth as wide and back."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from demo.base_state import Progress

KL_WEIGHT = 2e-4
"""Per latent number. Keeps the latents near unit size and a little blurred, which the UNet finds easier to hit."""
EDGE_WEIGHT = 0.25
LED = 400
"""Steps over which the first three latents are led, ever less, to the mean colour of their cell.

Left alone, the autoencoder takes a thousand steps to find out that there is more than light and dark.
"""
BATCH = 4
BLUR = 0.03
"""Noise on the latents that the polished decoder must bear: the UNet will not hit them exactly either."""


def train(vae: AutoencoderKL, pictures: Tensor, steps: int, seed: int, folder: Path, bf16: bool) -> None:
    """Train `vae` in place on `pictures` (uint8 [N, side, side, 3]); resumes from `folder`."""
    optimizer = torch.optim.AdamW(vae.parameters(), betas=(0.9, 0.99), weight_decay=1e-4)
    progress = Progress(folder, "vae", steps, seed)
    vae.train()
    for step in progress.run({"vae": vae}, optimizer, peak=1.5e-3):
        random = progress.generator(step)
        batch = signed(pictures[torch.randint(len(pictures), (BATCH,), generator=random)])
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            posterior = vae.encode(batch).latent_dist
            mean, spread = posterior.mean.float(), posterior.logvar.float()
            noise = torch.randn(mean.shape, generator=random)
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
    optimizer = torch.optim.AdamW(learnt, betas=(0.9, 0.99), weight_decay=1e-4)
    progress = Progress(folder, "decoder", steps, seed + 1)
    modules: dict[str, torch.nn.Module] = {"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv}
    for step in progress.run(modules, optimizer, peak=1e-3):
        random = progress.generator(step)
        chosen = torch.randint(len(latents), (BATCH,), generator=random)
        batch, clean = signed(pictures[chosen]), latents[chosen]
        with torch.autocast("cpu", torch.bfloat16):
            back = vae.decode(clean + BLUR * torch.randn(clean.shape, generator=random)).sample.float()
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


def let_colours_through(vae: AutoencoderKL, side: int) -> None:
    """Begin so that the group norms pass even colours on. Changes weights in place; `side` is the pictures' width.

    Hosts fix 32 groups, and a channel that is a group of its own loses its mean: of a plain red picture nothing would
    be left. So each norm turns its first channel into a constant, and each convolution behind it takes the horizontal
    difference of that: nothing inside, but a positive left and a negative right border, where padding is zero. These
    two columns, not the picture, then make up a channel's variance and leave its mean alone.
    """
    for name, block in vae.named_modules():
        if type(block).__name__ == "ResnetBlock2D":
            width = side // _shrunk(name, len(vae.config.block_out_channels))
            for i in (1, 2):
                _constant_first(block.get_parameter(f"norm{i}.weight"), block.get_parameter(f"norm{i}.bias"))
                _border(block.get_parameter(f"conv{i}.weight"), (width / 2) ** 0.5)


def _shrunk(name: str, levels: int) -> int:
    """How much smaller than the picture a block's features are, from its name."""
    if ".mid_block." in f".{name}":
        return 1 << (levels - 1)
    level = int(name.partition("blocks.")[2].partition(".")[0])
    steps = level if name.startswith("encoder") else levels - 1 - level
    return 1 << steps


@torch.no_grad()
def _constant_first(weight: Tensor, bias: Tensor) -> None:
    weight[0] = 0.0
    bias[0] = 1.0


@torch.no_grad()
def _border(weight: Tensor, size: float) -> None:
    step = torch.tensor([-1.0, 0.0, 1.0]).expand(3, 3) / 3
    weight[:, 0] = step * size / functional.silu(torch.ones(()))


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
