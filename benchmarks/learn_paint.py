"""Many pictures at once with the standalone host's sampler: the same as its `render`, whole batches at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from demo.world import SIDE, Pixels
from lora_ext.hosts.sampler import euler, first_noise, to_picture
from lora_ext.hosts.standalone import StandaloneModel
from lora_ext.live import RenderRequest
from lora_ext.model import TextEncoders, Tokenizer, build_text, build_unet, build_vae
from lora_ext.model.architecture import Architecture

STEPS, GUIDANCE = 20, 7.0
BATCH = 25


@dataclass(frozen=True)
class Modules:
    """A model's three parts, whoever holds their weights."""

    arch: Architecture
    alphas_cumprod: Tensor
    unet: nn.Module
    text: TextEncoders
    vae: Any  # diffusers' module, whose calls the checker does not see

    @classmethod
    def over(cls, model: StandaloneModel) -> Modules:
        """Modules over a model's live tensors: what its patcher applies shows in them at once."""
        arch, tensors = model.architecture, model.tensors
        return cls(
            arch, model.alphas_cumprod, build_unet(arch, tensors), build_text(arch, tensors), build_vae(arch, tensors)
        )


def paint(modules: Modules, prompts: Sequence[str], seeds: Sequence[int]) -> list[Pixels]:
    """A picture per prompt, each from its seed's own noise, 20 steps, CFG 7."""
    pairs = list(zip(prompts, seeds, strict=True))
    return [picture for i in range(0, len(pairs), BATCH) for picture in _batch(modules, pairs[i : i + BATCH])]


@torch.no_grad()
def _batch(modules: Modules, pairs: Sequence[tuple[str, int]]) -> Iterator[Pixels]:
    context = _contexts(modules, [prompt for prompt, _ in pairs])
    scheduler = euler(modules.alphas_cumprod, modules.arch.prediction_type, STEPS)
    latents = torch.cat([_noise(modules.arch, seed) for _, seed in pairs]) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(torch.cat([latents, latents]), t)
        negative, positive = modules.unet(scaled, t, encoder_hidden_states=context).sample.chunk(2)
        guess = negative + GUIDANCE * (positive - negative)
        latents = scheduler.step(guess, t, latents).prev_sample
    decoded = modules.vae.decode(latents / modules.arch.vae.scale).sample
    return (np.asarray(to_picture(one)) for one in decoded)


def _contexts(modules: Modules, prompts: Sequence[str]) -> Tensor:
    """[2B, 77, C]: the empty prompt's, B times, then the prompts'."""
    tokens = Tokenizer().tokens(["", *prompts], modules.arch)
    context = modules.text.encode(tokens).context
    return torch.cat([context[:1].expand(len(prompts), -1, -1), context[1:]])


def _noise(arch: Architecture, seed: int) -> Tensor:
    return first_noise(arch, RenderRequest("", seed=seed, width=SIDE, height=SIDE))[0]
