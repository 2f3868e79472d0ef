"""What torch really keeps and allocates in a step, counted on the meta device: real modules, real sizes, no memory.

CUDA's autocast is imitated by casting what its lists cast, and flash attention stands in for what a card would choose.
"""

from __future__ import annotations

import sys
import weakref
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from lora_ext.model import build_unet, build_vae, checkpoint_gradients
from lora_ext.training.adapted import attach
from lora_ext.training.creation import create_adapters
from lora_ext.training.dropping import Dropping, Rates, Roll
from lora_ext.training.shifted import attach_shifts
from lora_ext.training.targets import plan

sys.path.append(str(Path(__file__).parent.parent / "model"))
import full_size

__all__ = ["MEASURES_PEAKS", "encoding", "full_size", "on_meta", "saved_by"]

PRODUCTS = {functional.linear, torch.conv2d, functional.conv2d, torch.matmul, torch.bmm, torch.einsum}
NORMS = {functional.layer_norm, functional.group_norm, functional.softmax, torch.softmax}
MEASURES_PEAKS = int(torch.__version__.split(".")[0]) * 100 + int(torch.__version__.split(".")[1]) > 201
"""torch 2.1 does not tell when a storage is gone."""
MEMORY_EFFICIENT = torch.ops.aten._scaled_dot_product_efficient_attention


@dataclass
class Measured:
    """Bytes of activations."""

    saved: int = 0
    peak: int = 0


class AsOnCuda(TorchFunctionMode):
    """Casts as CUDA's autocast does (`compute` below float32) and takes fused attention."""

    def __init__(self, compute):
        super().__init__()
        self.compute = compute

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            q, k, v = (
                t.to(self.compute)
                for t in (args + tuple(kwargs[n] for n in ("query", "key", "value") if n in kwargs))[:3]
            )
            return MEMORY_EFFICIENT(q, k, v, None, True)[0]
        if self.compute is torch.float32:
            return func(*args, **kwargs)
        if func in PRODUCTS:
            args, kwargs = self._cast((args, kwargs), self.compute)
        elif func in NORMS:
            args, kwargs = self._cast((args, kwargs), torch.float32)
        return func(*args, **kwargs)

    def _cast(self, value, dtype):
        if isinstance(value, torch.Tensor):
            return value.to(dtype) if value.is_floating_point() else value
        if isinstance(value, (tuple, list)):
            return type(value)(self._cast(x, dtype) for x in value)
        if isinstance(value, dict):
            return {k: self._cast(x, dtype) for k, x in value.items()}
        return value


class Allocations(TorchDispatchMode):
    """Adds up the storages that live at one time."""

    def __init__(self, known):
        super().__init__()
        self.live, self.peak, self.known = 0, 0, known

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        return out

    def _note(self, storage):
        key = storage._cdata
        if key in self.known:
            return
        self.known.add(key)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key, size):
        self.live -= size
        self.known.discard(key)


def on_meta(arch, table, tensors, config, compute, batch, height, width, held=None):
    """A step of the UNet with adapters, forward and backward; `held`: the precision of the frozen weights."""
    tensors = {k: t.to(held or compute) for k, t in tensors.items()}
    planned = [t for t in plan(table, config) if t.layer.name.component == "unet"]
    unet = build_unet(arch, tensors)
    seen = {t.layer.key: torch.ones(()).expand(tensors[t.layer.key].shape) for t in planned}
    fresh = create_adapters(planned, config.network, seen, torch.Generator())
    _attach(unet, planned, {name: a.to("meta") for name, a in fresh.items()}, config.network)
    if config.optim.checkpointing:
        checkpoint_gradients(unet)
    factor = arch.vae.factor
    latents = torch.empty(batch, 4, height // factor, width // factor, device="meta")
    context = torch.empty(batch, 77, arch.unet.context_dim, device="meta", dtype=compute)
    steps = torch.zeros(batch, dtype=torch.int64, device="meta")
    added = None
    if arch.unet.added_dim:
        wide = arch.text[-1].projection
        added = {
            "text_embeds": torch.empty(batch, wide, device="meta"),
            "time_ids": torch.empty(batch, 6, device="meta"),
        }

    def forward():
        return unet(latents, steps, context, added_cond_kwargs=added, return_dict=False)[0]

    return counted(unet, forward, compute)


def encoding(arch, tensors, pixels):
    """Bytes at the worst moment of a picture's way through the VAE in float32, its weights not counted."""
    vae = build_vae(arch, {k: t.float() for k, t in tensors.items() if k.startswith("first_stage_model.")})
    allocations = Allocations({t.untyped_storage()._cdata for t in vae.parameters()})
    with torch.no_grad(), allocations, AsOnCuda(torch.float32):
        vae.encode(torch.empty(1, 3, pixels, pixels, device="meta"))
    return allocations.peak


def _attach(unet, planned, adapters, network):
    layers = {t.layer.name: t.layer for t in planned}
    vectors = {name: a for name, a in adapters.items() if layers[name].op in ("norm", "bias")}
    rates = Rates(network.dropout, network.rank_dropout, network.module_dropout, network.weight_dropout)
    whole = {name: _dropping(name, a, rates) for name, a in adapters.items() if name not in vectors}
    attach(unet, layers, whole)
    attach_shifts(unet, layers, vectors)


def _dropping(name, adapter, rates):
    return adapter if rates == Rates() else Dropping(adapter, rates, Roll(), str(name), torch.device("cpu"))


def _backward(loss):
    """The engine itself: torch's own functions leave the modes, and checkpoints compute again in here."""
    run = torch.autograd.Variable._execution_engine.run_backward
    run((loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True)


def counted(module, forward, compute):
    """Saved at the end of the forward pass, and the peak of a step, both without the module's own tensors."""
    held = [*module.parameters(), *module.buffers()]
    allocations = Allocations({t.untyped_storage()._cdata for t in held})
    with ExitStack() as stack:
        if MEASURES_PEAKS:
            stack.enter_context(allocations)
        stack.enter_context(AsOnCuda(compute))
        # torch 2.1's checkpoints look for random states of the device
        stack.enter_context(mock.patch("torch.utils.checkpoint._infer_device_type", lambda *_: "cpu"))
        stack.enter_context(mock.patch("lora_ext.training.shifted.torch.autocast", lambda *_, **__: nullcontext()))
        loss, saved = saved_by(lambda: forward().float().square().mean(), held)
        if MEASURES_PEAKS:
            _backward(loss)
    return Measured(saved, allocations.peak)


def saved_by(forward, held):
    """What `forward` gives, and the bytes that its backward pass will ask for, without those of the tensors `held`."""
    own = {t.untyped_storage()._cdata for t in held}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = forward()
    return out, sum(s.nbytes() for s in kept.values())
