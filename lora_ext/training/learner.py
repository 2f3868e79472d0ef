"""The adapters being trained, and the modules they sit in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from lora_ext.adapters import Adapter, Network
from lora_ext.config import TrainConfig
from lora_ext.diffusion import Noise, NoiseSchedule, diffusion_loss, draw_noise, mse
from lora_ext.layers import LayerName
from lora_ext.live import LiveModel, Part, Session
from lora_ext.model import (
    Conditioning,
    TextEncoders,
    added_conditioning,
    build_text,
    build_unet,
)
from lora_ext.training.adapted import attach
from lora_ext.training.arranged import arrange
from lora_ext.training.captions import encoded
from lora_ext.training.creation import create_adapters
from lora_ext.training.dropping import Dropping, Rates, Roll
from lora_ext.training.material import Batch, clip_skip, text_prefixes
from lora_ext.training.optimizer import ParameterGroup
from lora_ext.training.precision import Arithmetic
from lora_ext.training.recipes import loss_recipe, noise_recipe, timestep_range
from lora_ext.training.shifted import attach_shifts
from lora_ext.training.small_weights import Bits, shrink
from lora_ext.training.targets import Target, plan
from lora_ext.training.weakened import Weakened, draw_strength

UNET_PREFIX = "model.diffusion_model."


@dataclass(frozen=True)
class Draw:
    """What chance decides about a batch: drawn once for the whole of it, however small the pieces it is computed in."""

    timesteps: Tensor
    noise: Noise
    roll: int = 0
    first: int = 0
    """Place in the whole batch of the first sample."""
    strength: float = 1.0
    """Of all adapters together."""

    def __getitem__(self, which: slice) -> Draw:
        """The same for some of the samples."""
        first = self.first + (which.start or 0)
        return Draw(self.timesteps[which], self.noise[which], self.roll, first, self.strength)


class Learner:
    """Fresh adapters around the layers of modules built over the live tensors; turns a batch into a loss."""

    def __init__(
        self,
        model: LiveModel,
        session: Session,
        config: TrainConfig,
        arithmetic: Arithmetic,
        start: Network | None = None,
    ) -> None:
        """Places what is trained on the device; everything else leaves it. `start` is a network to go on from."""
        self.model, self.session, self.config, self.arithmetic = model, session, config, arithmetic
        arch, seed = model.architecture, config.optim.seed
        self.targets = {t.layer.name: t for t in plan(model.table, config, start.adapters if start else None)}
        self.layers = {name: target.layer for name, target in self.targets.items()}
        fresh = start.adapters if start else self._fresh(generator(seed, "adapters", torch.device("cpu")))
        self.adapters = {name: fresh[name].to(model.device) for name in self.targets}
        self.roll = Roll()
        self.noise = generator(seed, "noise", model.device)
        self.dice = generator(seed, "dice", torch.device("cpu"))
        schedule = NoiseSchedule(model.alphas_cumprod, arch.prediction_type)
        self.schedule = (schedule.with_zero_terminal_snr() if config.loss.zero_terminal_snr else schedule).to(
            model.device
        )
        self.recipe, self.noise_recipe = loss_recipe(config.loss), noise_recipe(config.loss)
        self.timesteps = timestep_range(config.loss)
        self.clip_skip = clip_skip(model, config)
        self.checkpointing = config.optim.checkpointing and config.memory.checkpointing_where == "all"
        self.unet: nn.Module | None = None
        self.text: TextEncoders | None = None
        as_loaded = config.memory.base_weights == "as_loaded"
        unet: tuple[Part, ...] = ("unet",) if as_loaded else ()  # of small weights there is a copy on the device
        self.parts: tuple[Part, ...] = (*unet, "te") if self._of("te") else unet
        for name, target in self.targets.items():
            self.adapters[name].requires_grad_(target.rate > 0)
        self._build()

    def groups(self) -> list[ParameterGroup]:
        """Parameters by learning rate, the UNet's first; with LoRA+ the upper factors apart."""
        found: dict[tuple[bool, float], list[nn.Parameter]] = {}
        for name, target in self.targets.items():
            for key, parameter in self.adapters[name].named_parameters():
                upper = key.rpartition(".")[2] == "up"
                rate = target.rate * (self.config.optim.loraplus_ratio if upper else 1.0)
                if rate:
                    found.setdefault((name.component != "unet", rate), []).append(parameter)
        return [ParameterGroup(parameters, rate) for (_, rate), parameters in sorted(found.items(), key=_text_last)]

    def freeze(self, part: str) -> None:
        """Let the UNet ("unet") or a text encoder ("te1", "te2") learn no more."""
        for adapter in self._of(part).values():
            adapter.requires_grad_(False)
            for parameter in adapter.parameters():
                parameter.grad = None

    def network(self, name: str, identity: str) -> Network:
        """The adapters as trained so far. They go on learning; give each use an identity of its own."""
        return Network(name, dict(self.adapters), identity=identity)

    def draw(self, batch: Batch) -> Draw:
        """Fresh timesteps and noise for a batch (DDPM, algorithm 1)."""
        timesteps = self.schedule.sample_timesteps(len(batch.latents), self.noise, self.timesteps)
        noise = draw_noise(batch.latents.float(), self.noise_recipe, self.noise, self.dice)
        roll = int(torch.randint(2**31, (), generator=self.dice)) if self._drops() else 0
        return Draw(timesteps, noise, roll, strength=draw_strength(self.config.network.lowest_strength, self.dice))

    def loss(self, batch: Batch, draw: Draw | None = None) -> Tensor:
        """Scalar float32 loss of one micro-batch, with fresh noise and timesteps unless they are given."""
        drawn = draw or self.draw(batch)
        self.roll.value, self.roll.first, self.roll.samples = drawn.roll, drawn.first, len(batch.latents)
        self.roll.strength = drawn.strength
        return self.loss_of(batch, drawn.noise, drawn.timesteps)

    @torch.enable_grad()  # type: ignore[untyped-decorator,unused-ignore]  # the thread's own mode is the host's business
    def loss_of(self, batch: Batch, noise: Noise | Tensor, timesteps: Tensor) -> Tensor:
        """The same with given noise [B, 4, h, w] and timesteps [B]."""
        drawn = Noise(noise, noise) if isinstance(noise, Tensor) else noise
        latents = batch.latents.float()
        prediction = self._predict(batch, self.schedule.add_noise(latents, drawn.given, timesteps), timesteps)
        target = self.schedule.target(latents, drawn.asked, timesteps)
        mask = batch.mask if self.config.loss.masked_loss else None
        return diffusion_loss(prediction, target, timesteps, self.schedule, self.recipe, batch.weights, mask)

    def plain_loss(self, batch: Batch, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Mean squared error at full strength without gradients, dropout, weights or mask: no setting changes it."""
        latents = batch.latents.float()
        self.roll.resting = True
        try:
            with torch.no_grad():
                prediction = self._predict(batch, self.schedule.add_noise(latents, noise, timesteps), timesteps)
        finally:
            self.roll.resting = False
        return mse(prediction, self.schedule.target(latents, noise, timesteps))

    def _predict(self, batch: Batch, noisy: Tensor, timesteps: Tensor) -> Tensor:
        assert self.unet is not None, "the model is not ours during a pause"
        with self.arithmetic.autocast():
            text = self._conditioning(batch)
            added = added_conditioning(self.model.architecture, text.pooled, batch.sizes)
            found: Tensor = self.unet(noisy, timesteps, text.context, added_cond_kwargs=added, return_dict=False)[0]
        return found

    def capture(self) -> dict[str, object]:
        """The adapters and the random sources; tensors are the living ones."""
        adapters = {str(name): dict(adapter.state_dict()) for name, adapter in self.adapters.items()}
        return {"adapters": adapters, "chance": self.chance()}

    def restore(self, content: Mapping[str, Any]) -> None:
        """Put back what `capture` gave, as read from a file."""
        for name, adapter in self.adapters.items():
            adapter.load_state_dict(content["adapters"][str(name)])
        self.set_chance(content["chance"])

    def chance(self) -> tuple[Tensor, Tensor]:
        """Where the random sources are; no answer from the device is needed."""
        return self.noise.get_state(), self.dice.get_state()

    def set_chance(self, chance: tuple[Tensor, Tensor]) -> None:
        """Put the random sources back."""
        self.noise.set_state(chance[0])
        self.dice.set_state(chance[1])

    def save_memory(self) -> bool:
        """Turn on gradient checkpointing in mid-run; False when it is on already."""
        if self.checkpointing:
            return False
        self.checkpointing = True
        self._build()
        return True

    def leave(self) -> None:
        """Let go of the model: no module over its tensors is left, and the adapters are on the CPU."""
        self.let_go()
        for adapter in self.adapters.values():
            adapter.to("cpu")

    def let_go(self) -> None:
        """Give up the modules, so that the model's tensors may move; `come_back` makes them anew."""
        self.unet = None
        self.text = None

    def come_back(self, session: Session) -> None:
        """Undo `leave` in another session with the same model."""
        self.session = session
        for adapter in self.adapters.values():
            adapter.to(self.model.device)
        self._build()

    def settle(self) -> None:
        """Build the modules anew if the host moved the tensors meanwhile (to make room for a preview)."""
        if self.unet is None or _addresses(self._live()) != self._built_over:
            self._build()

    def _build(self) -> None:
        """Frozen modules over the live tensors, adapters attached."""
        self.let_go()
        self.session.place(*self.parts)
        arch, tensors = self.model.architecture, self._live()
        self._built_over = _addresses(tensors)
        unet = build_unet(arch, self.arithmetic.tensors(tensors, (UNET_PREFIX,)))
        memory = self.config.memory
        if memory.base_weights != "as_loaded":
            shrink(unet, cast(Bits, memory.base_weights), self.model.device)
        self._attach(unet, self._of("unet"))
        where = memory.checkpointing_where if self.config.optim.checkpointing else ""
        fused = not self.arithmetic.spoils_fused_attention
        arrange(unet, memory, "all" if self.checkpointing else where, fused)  # the UNet alone: texts hold little
        self.unet, self.text = unet, None
        if "te" in self.parts:
            self.text = build_text(arch, self.arithmetic.tensors(tensors, text_prefixes(arch)))
            for number, encoder in enumerate(self.text.encoders, 1):
                self._attach(encoder, _only(self.adapters, f"te{number}"))

    def _conditioning(self, batch: Batch) -> Conditioning:
        if isinstance(batch.text, Conditioning):
            return batch.text
        assert self.text is not None, "tokens come only when the text encoders learn"
        return encoded(self.text, batch.text, self.clip_skip)

    def _attach(self, root: nn.Module, adapters: Mapping[LayerName, Adapter]) -> None:
        vectors = {name for name in adapters if self.layers[name].op in ("norm", "bias")}
        kept = {name: a if name in vectors else self._dropping(name, a) for name, a in adapters.items()}
        if self.config.network.lowest_strength < 1:
            kept = {name: Weakened(a, self.roll) for name, a in kept.items()}
        attach(root, self.layers, {name: a for name, a in kept.items() if name not in vectors})
        attach_shifts(root, self.layers, {name: a for name, a in kept.items() if name in vectors})

    def _dropping(self, name: LayerName, adapter: Adapter) -> Adapter:
        rates = self._rates(self.targets[name])
        if rates == Rates() or not self.targets[name].rate:
            return adapter
        return Dropping(adapter, rates, self.roll, str(name), self.model.device)

    def _rates(self, target: Target) -> Rates:
        network = self.config.network
        return Rates(target.dropout, network.rank_dropout, network.module_dropout, network.weight_dropout)

    def _drops(self) -> bool:
        return any(self._rates(target) != Rates() for target in self.targets.values())

    def _fresh(self, init: torch.Generator) -> dict[LayerName, Adapter]:
        return create_adapters(self.targets.values(), self.config.network, self.model.tensors, init)

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


def _text_last(group: tuple[tuple[bool, float], list[nn.Parameter]]) -> bool:
    return group[0][0]


def _only(adapters: Mapping[LayerName, Adapter], component: str) -> dict[LayerName, Adapter]:
    # SD1 and SD2 call their one encoder te1
    return {name: a for name, a in adapters.items() if name.component == component}


def _addresses(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, torch.device]]:
    return {key: (t.data_ptr(), t.device) for key, t in tensors.items()}
