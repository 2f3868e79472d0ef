"""The adapters being trained, and the modules they sit in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_ext.adapters import Adapter, LoraAdapter, Network
from lora_ext.config import NetworkConfig, TrainConfig
from lora_ext.diffusion import Noise, NoiseSchedule, diffusion_loss, draw_noise
from lora_ext.layers import Layer, LayerName
from lora_ext.live import LiveModel, Part, Session
from lora_ext.model import (
    Conditioning,
    TextEncoders,
    added_conditioning,
    build_text,
    build_unet,
    checkpoint_gradients,
)
from lora_ext.training.adapted import attach
from lora_ext.training.material import Batch, clip_skip, text_prefixes
from lora_ext.training.optimizer import ParameterGroup
from lora_ext.training.precision import Arithmetic
from lora_ext.training.recipes import loss_recipe, noise_recipe, timestep_range
from lora_ext.training.targets import rank_and_alpha, targets

UNET_PREFIX = "model.diffusion_model."


@dataclass(frozen=True)
class Draw:
    """What chance decides about a batch: drawn once for the whole of it, however small the pieces it is computed in."""

    timesteps: Tensor
    noise: Noise

    def __getitem__(self, which: slice) -> Draw:
        """The same for some of the samples."""
        return Draw(self.timesteps[which], self.noise[which])


class Learner:
    """Fresh adapters around the layers of modules built over the live tensors; turns a batch into a loss."""

    def __init__(self, model: LiveModel, session: Session, config: TrainConfig, arithmetic: Arithmetic) -> None:
        """Places what is trained on the device; everything else leaves it."""
        self.model, self.session, self.config, self.arithmetic = model, session, config, arithmetic
        arch, optim = model.architecture, config.optim
        self.layers = {layer.name: layer for layer in targets(model.table, config)}
        init = generator(optim.seed, "adapters", torch.device("cpu"))
        self.adapters = {
            name: _adapter(layer, config.network, init).to(model.device) for name, layer in self.layers.items()
        }
        self.noise = generator(optim.seed, "noise", model.device)
        self.dice = generator(optim.seed, "dice", torch.device("cpu"))
        schedule = NoiseSchedule(model.alphas_cumprod, arch.prediction_type)
        self.schedule = (schedule.with_zero_terminal_snr() if config.loss.zero_terminal_snr else schedule).to(
            model.device
        )
        self.recipe, self.noise_recipe = loss_recipe(config.loss), noise_recipe(config.loss)
        self.timesteps = timestep_range(config.loss)
        self.clip_skip = clip_skip(model, config)
        self.parts: tuple[Part, ...] = ("unet", "te") if optim.text_encoder_lr else ("unet",)
        self._build()

    def groups(self) -> list[ParameterGroup]:
        """Adapters by learning rate."""
        optim = self.config.optim
        rates = {"unet": optim.learning_rate, "te": optim.text_encoder_lr}
        return [
            ParameterGroup([p for a in self._of(part).values() for p in a.parameters()], rate)
            for part, rate in rates.items()
            if rate
        ]

    def network(self, name: str, identity: str) -> Network:
        """The adapters as trained so far. They go on learning; give each use an identity of its own."""
        return Network(name, dict(self.adapters), identity=identity)

    def draw(self, batch: Batch) -> Draw:
        """Fresh timesteps and noise for a batch (DDPM, algorithm 1)."""
        timesteps = self.schedule.sample_timesteps(len(batch.latents), self.noise, self.timesteps)
        return Draw(timesteps, draw_noise(batch.latents.float(), self.noise_recipe, self.noise, self.dice))

    def loss(self, batch: Batch, draw: Draw | None = None) -> Tensor:
        """Scalar float32 loss of one micro-batch, with fresh noise and timesteps unless they are given."""
        drawn = draw or self.draw(batch)
        return self.loss_of(batch, drawn.noise, drawn.timesteps)

    @torch.enable_grad()  # type: ignore[untyped-decorator,unused-ignore]  # the thread's own mode is the host's business
    def loss_of(self, batch: Batch, noise: Noise | Tensor, timesteps: Tensor) -> Tensor:
        """The same with given noise [B, 4, h, w] and timesteps [B]."""
        drawn = Noise(noise, noise) if isinstance(noise, Tensor) else noise
        latents = batch.latents.float()
        noisy = self.schedule.add_noise(latents, drawn.given, timesteps)
        with self.arithmetic.autocast():
            text = self._conditioning(batch)
            added = added_conditioning(self.model.architecture, text.pooled, batch.sizes)
            prediction = self.unet(noisy, timesteps, text.context, added_cond_kwargs=added, return_dict=False)[0]
        target = self.schedule.target(latents, drawn.asked, timesteps)
        mask = batch.mask if self.config.loss.masked_loss else None
        return diffusion_loss(prediction, target, timesteps, self.schedule, self.recipe, batch.weights, mask)

    def settle(self) -> None:
        """Build the modules anew if the host moved the tensors meanwhile (to make room for a preview)."""
        if _addresses(self._live()) != self._built_over:
            self._build()

    def _build(self) -> None:
        """Frozen modules over the live tensors, adapters attached."""
        self.session.place(*self.parts)
        arch, tensors = self.model.architecture, self._live()
        self._built_over = _addresses(tensors)
        self.unet = build_unet(arch, self.arithmetic.tensors(tensors, (UNET_PREFIX,)))
        attach(self.unet, self.layers, self._of("unet"))
        if self.config.optim.checkpointing:
            checkpoint_gradients(self.unet)  # the UNet alone: text encoders hold little
        self.text: TextEncoders | None = None
        if "te" in self.parts:
            self.text = build_text(arch, self.arithmetic.tensors(tensors, text_prefixes(arch)))
            for number, encoder in enumerate(self.text.encoders, 1):
                attach(encoder, self.layers, _only(self.adapters, f"te{number}"))

    def _conditioning(self, batch: Batch) -> Conditioning:
        if isinstance(batch.text, Conditioning):
            return batch.text
        assert self.text is not None, "tokens come only when the text encoders learn"
        return self.text.encode(batch.text, self.clip_skip)

    def _of(self, part: str) -> dict[LayerName, Adapter]:
        return {name: a for name, a in self.adapters.items() if name.component.startswith(part)}

    def _live(self) -> dict[str, Tensor]:
        prefixes = (UNET_PREFIX, *text_prefixes(self.model.architecture)) if "te" in self.parts else (UNET_PREFIX,)
        return {key: t for key, t in self.model.tensors.items() if key.startswith(prefixes)}


def generator(seed: int, purpose: str, device: torch.device) -> torch.Generator:
    """A random source of our own for one purpose; the host's global ones are never touched.

    Seeds are hashed, so that purposes do not follow each other's numbers, nor does seed 1 follow seed 0.
    """
    digest = hashlib.sha256(f"{purpose} {seed}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "little"))


def _adapter(layer: Layer, network: NetworkConfig, init: torch.Generator) -> LoraAdapter:
    rank, alpha = rank_and_alpha(layer, network)
    return LoraAdapter.create(layer.shape, rank, alpha, init)


def _only(adapters: Mapping[LayerName, Adapter], component: str) -> dict[LayerName, Adapter]:
    # SD1 and SD2 call their one encoder te1
    return {name: a for name, a in adapters.items() if name.component == component}


def _addresses(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, torch.device]]:
    return {key: (t.data_ptr(), t.device) for key, t in tensors.items()}
