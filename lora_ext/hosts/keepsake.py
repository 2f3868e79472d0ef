"""What a training session may disturb in a model, remembered and put back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def undisturbed(roots: Iterable[nn.Module]) -> Iterator[None]:
    """Inside: eval mode, nothing requires gradients. Afterwards modes, flags, gradients and places are as before."""
    modules = {id(m): m for root in roots for m in root.modules()}
    tensors = _tensors(modules.values())
    modes = [(m, m.training) for m in modules.values()]
    flags = [(t, t.requires_grad, t.grad) for t in tensors]
    places = [(t, t.device) for t in tensors]
    try:
        for module, _ in modes:
            module.training = False
        for tensor, needs, _ in flags:
            if needs:
                tensor.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for tensor, needs, _ in flags:
            tensor.requires_grad_(needs)
        move(places)  # may fail, when a card has no room any more
        for tensor, _, grad in flags:
            tensor.grad = grad


def move(places: Iterable[tuple[Tensor, torch.device]]) -> None:
    """Put each tensor on a device, in place, as `nn.Module.to` does: whoever holds the tensor sees it moved."""
    for tensor, device in places:
        if tensor.device != device:
            tensor.data = tensor.data.to(device)


def tensors_of(root: nn.Module) -> list[Tensor]:
    """Parameters and buffers below a module, each once."""
    return _tensors(root.modules())


def _tensors(modules: Iterable[nn.Module]) -> list[Tensor]:
    found: dict[int, Tensor] = {}
    for module in modules:
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                found[id(tensor)] = tensor
    return list(found.values())
