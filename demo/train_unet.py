"""Third stage of the base model: the UNet, which learns to take the noise out of latents as the caption says."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from demo import world
from demo.base_state import Progress
from demo.train_text import tokenized
from lora_ext.diffusion import NoiseSchedule, mse
from lora_ext.model import TextEncoders

DROPPED = 0.1
"""Share of captions left out, for classifier-free guidance (arXiv 2207.12598)."""
GAMMA = 5.0
"""min-SNR weighting (arXiv 2303.09556): very noisy steps count in full, nearly clean ones less."""
EMA = 0.999


def train(
    unet: nn.Module,
    text: TextEncoders,
    latents: Tensor,
    scenes: list[world.Scene],
    steps: int,
    batch: int,
    seed: int,
    folder: Path,
) -> None:
    """Train `unet` in place on `latents` [N, 4, h, w] and captions of `scenes`; it ends with its moving average."""
    device = next(unet.parameters()).device
    schedule = NoiseSchedule.default().to(device)
    snr = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
    weights = snr.clamp(max=GAMMA) / snr
    average = copy.deepcopy(unet).requires_grad_(False)
    optimizer = torch.optim.AdamW(unet.parameters(), betas=(0.9, 0.99), weight_decay=0.01)
    progress = Progress(folder, "unet", steps, seed)
    for step in progress.run({"unet": unet, "average": average}, optimizer, peak=1e-3):
        random = progress.generator(step)
        chosen = torch.randint(len(latents), (batch,), generator=random)
        clean = latents[chosen].to(device)
        noise = torch.randn(clean.shape, generator=random).to(device)
        t = schedule.sample_timesteps(batch, random).to(device)
        context = contexts(text, [scenes[i] for i in chosen.tolist()], seed, step)
        guess = unet(schedule.add_noise(clean, noise, t), t, encoder_hidden_states=context, return_dict=False)[0]
        loss = mse(guess, schedule.target(clean, noise, t), weights[t])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        _follow(average, unet, min(EMA, (1 + step) / (10 + step)))
        progress.note(loss=loss.item(), plain=mse(guess.detach(), noise).item())
    unet.load_state_dict(average.state_dict())


@torch.no_grad()
def contexts(text: TextEncoders, scenes: list[world.Scene], seed: int, step: int) -> Tensor:
    """Conditioning [B, 77, C] of a fresh wording for each scene, some left empty."""
    random = world.generator(seed + 11, step)
    captions = ["" if random.random() < DROPPED else world.caption(scene, random) for scene in scenes]
    ids = tokenized(text, captions).to(next(text.parameters()).device)
    return text.encode((ids,)).context


@torch.no_grad()
def _follow(average: nn.Module, module: nn.Module, decay: float) -> None:
    for mine, theirs in zip(average.parameters(), module.parameters(), strict=True):
        mine.lerp_(theirs, 1 - decay)
