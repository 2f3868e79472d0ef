"""The peer of the learning bench: diffusers and peft over the same checkpoint, in a plain loop.

Data, their order, first weights, noise and timesteps are drawn from the same seeds as the project's, so that what is
left to differ is the training itself. Needs peft.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.optimization import get_scheduler
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.learn_paint import Modules
from benchmarks.learn_settings import Settings
from lora_ext.adapters import LoraAdapter
from lora_ext.config import CheckpointConfig
from lora_ext.data import Batches, DataReport, scan
from lora_ext.hosts.standalone import StandaloneModel
from lora_ext.layers import Layer, LayerTable
from lora_ext.model import Tokenizer, default_targets
from lora_ext.training.learner import generator
from lora_ext.training.weakened import draw_strength


@dataclass(frozen=True)
class PeerResult:
    """Modules with the trained adapters on, every step's loss, and the seconds of all steps."""

    modules: Modules
    losses: tuple[float, ...]
    seconds: float


def name() -> str:
    """Which peer this is."""
    return f"diffusers {version('diffusers')} + peft {version('peft')}"


def learn(checkpoint: Path, images: Path, settings: Settings) -> PeerResult:
    """Train on a fresh copy of the checkpoint. Raises `ImportError` without peft."""
    model = StandaloneModel.load(CheckpointConfig(checkpoint=str(checkpoint), device="cpu"))
    modules = Modules.over(model)
    groups = _adapters(modules, model.table, settings)
    report = scan(settings.config(images, images).data)
    latents, tokens = _latents(modules, report), _tokens(modules, report)
    began = time.perf_counter()
    losses = tuple(_loop(modules, groups, latents, tokens, _order(report, settings), settings))
    return PeerResult(modules, losses, time.perf_counter() - began)


@torch.no_grad()
def together(checkpoint: Path, trained: Sequence[PeerResult], strength: float) -> Modules:
    """A fresh copy of the checkpoint with what peft trained merged into its weights, each at the same strength."""
    modules = Modules.over(StandaloneModel.load(CheckpointConfig(checkpoint=str(checkpoint), device="cpu")))
    for one in trained:
        for target, source in zip(_roots(modules), _roots(one.modules), strict=True):
            for path, delta in _deltas(source):
                target.get_parameter(f"{path}.weight").data.add_(delta, alpha=strength)
    return modules


def _roots(modules: Modules) -> tuple[nn.Module, nn.Module]:
    return modules.unet, modules.text.encoders[0]


def _deltas(root: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Path and change of the weights of every layer that peft trained."""
    from peft.tuners.lora import LoraLayer  # noqa: PLC0415 - only the newest set of versions has it

    for path, module in root.named_modules():
        if isinstance(module, LoraLayer):
            yield path, module.get_delta_weight("default")  # type: ignore[attr-defined]


def _loop(
    modules: Modules,
    groups: list[dict[str, object]],
    latents: Tensor,
    tokens: Tensor,
    order: Iterator[Sequence[int]],
    settings: Settings,
) -> Iterator[float]:
    """As diffusers' own script for text-to-image LoRAs does it; yields losses."""
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    rate = get_scheduler(settings.schedule, optimizer, num_warmup_steps=0, num_training_steps=settings.steps)
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    dice = generator(settings.seed, "noise", torch.device("cpu"))
    weaken, faint = _weaken(modules), generator(settings.seed, "dice", torch.device("cpu"))
    for _, chosen in zip(range(settings.steps), order, strict=False):
        weaken(draw_strength(settings.lowest_strength, faint))
        seen = latents[list(chosen)]
        timesteps = torch.randint(0, 1000, (len(seen),), generator=dice)
        noise = torch.randn(seen.shape, generator=dice)
        noisy = scheduler.add_noise(seen, noise, timesteps)
        context = modules.text.encoders[0](input_ids=tokens[list(chosen)])[0]
        loss = functional.mse_loss(modules.unet(noisy, timesteps, context, return_dict=False)[0], noise)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        yield float(loss.detach())
    weaken(1.0)


def _weaken(modules: Modules) -> Callable[[float], None]:
    """What sets the strength of all of peft's adapters."""
    from peft.tuners.lora import LoraLayer  # noqa: PLC0415 - only the newest set of versions has it

    layers = [module for root in _roots(modules) for module in root.modules() if isinstance(module, LoraLayer)]

    def weaken(strength: float) -> None:
        for layer in layers:
            layer.set_scale("default", strength)

    return weaken


def _adapters(modules: Modules, table: LayerTable, settings: Settings) -> list[dict[str, object]]:
    """Put peft's adapters in, begun with the weights that the project's begin with; the optimizer's groups."""
    rates = {"unet": settings.learning_rate, "te1": settings.text_encoder_lr}
    targets = [layer for layer in default_targets(table, conv=False) if rates[layer.name.component]]
    roots = {"unet": modules.unet, "te1": modules.text.encoders[0]}
    dice = generator(settings.seed, "adapters", torch.device("cpu"))
    begun = {layer: LoraAdapter.create(layer.shape, settings.rank, settings.alpha, dice).down for layer in targets}
    groups = []
    for component, root in roots.items():
        own = [layer for layer in targets if layer.name.component == component]
        if own:
            _inject(root, own, settings)
            for layer in own:
                _found(root, layer).data.copy_(begun[layer])
            groups.append({"params": [p for p in root.parameters() if p.requires_grad], "lr": rates[component]})
    return groups


def _inject(root: nn.Module, layers: Sequence[Layer], settings: Settings) -> None:
    from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415 - only the newest set of versions has it

    names = [_path(root, layer) for layer in layers]
    inject_adapter_in_model(LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=names), root)  # type: ignore[arg-type]
    for path, parameter in root.named_parameters():
        parameter.requires_grad_("lora_" in path)


def _found(root: nn.Module, layer: Layer) -> nn.Parameter:
    return root.get_parameter(f"{_path(root, layer)}.lora_A.default.weight")


def _path(root: nn.Module, layer: Layer) -> str:
    """transformers 5 dropped the level `text_model` from `CLIPTextModel`."""
    return layer.module if hasattr(root, "text_model") else layer.module.removeprefix("text_model.")


@torch.no_grad()
def _latents(modules: Modules, report: DataReport) -> Tensor:
    """[N, 4, h, w], scaled; pictures read by Pillow alone."""
    pixels = np.stack([np.asarray(Image.open(p.path).convert("RGB"), np.float32) for p in report.pictures])
    signed = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    encoded: Tensor = modules.vae.encode(signed).latent_dist.mode()
    return encoded * modules.arch.vae.scale


def _tokens(modules: Modules, report: DataReport) -> Tensor:
    return Tokenizer().tokens([p.caption for p in report.pictures], modules.arch)[0]


def _order(report: DataReport, settings: Settings) -> Iterator[Sequence[int]]:
    """Numbers of the pictures of each batch, without end, as the project shuffles them."""
    batches = Batches(report, settings.batch_size, settings.seed)
    epoch = 0
    while True:
        for samples in batches.epoch(epoch):
            yield [sample.picture_index for sample in samples]
        epoch += 1
