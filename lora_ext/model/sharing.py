"""Modules over tensors that already exist: made on the meta device, then given the tensors, never a copy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from lora_ext.model.parts import Part, state_dict

Module = TypeVar("Module", bound=nn.Module)


def build_over(
    make: Callable[[], Module],
    parts: Iterable[Part],
    tensors: Mapping[str, Tensor],
    rename: Callable[[Module, str], str] = lambda _, name: name,
) -> Module:
    """Make a module without memory of its own and let its parameters be views into `tensors`.

    The parameters are new `nn.Parameter` objects on the same storage, frozen; flags and gradients of the host's own
    parameter objects stay out of it. `rename` turns a part's parameter name into that of the module. The module comes
    in eval mode. Raises `BadInput` when tensors are missing or do not fit.
    """
    with torch.device("meta"):
        module = make()
    state = {rename(module, name): _alias(tensor) for name, tensor in state_dict(parts, tensors).items()}
    for name, parameter in module.named_parameters():
        _same_shape(name, parameter, state)
    module.requires_grad_(False)
    found = module.load_state_dict(state, strict=False, assign=True)
    if found.unexpected_keys:
        raise RuntimeError(f"{type(module).__name__} has no {', '.join(found.unexpected_keys)}")
    _fill_buffers(module, next(iter(state.values())).device)
    return module.eval()


def _alias(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach(), requires_grad=False)


def _same_shape(name: str, parameter: Tensor, state: Mapping[str, Tensor]) -> None:
    """The table of parts must cover the module; a gap is our mistake, not the user's."""
    if name not in state or state[name].shape != parameter.shape:
        raise RuntimeError(f"no tensor of shape {tuple(parameter.shape)} was found for {name}")


def _fill_buffers(module: nn.Module, device: torch.device) -> None:
    """CLIP's only buffer, the row of position numbers, came out on the meta device."""
    for owner in module.modules():
        for name, buffer in owner.named_buffers(recurse=False):
            if name != "position_ids":
                raise RuntimeError(f"{type(owner).__name__} has an unknown buffer {name}")
            owner.register_buffer(name, torch.arange(buffer.shape[-1], device=device)[None], persistent=False)
