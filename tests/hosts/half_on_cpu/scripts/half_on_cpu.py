"""Put into the WebUI's extensions by the tests: float16 on a CPU, as graphics cards do it.

torch 2.1 has no float16 kernels for the CPU. Here each operation that needs one computes in float32 and rounds its
result, which is what the cards' kernels do.
"""

from __future__ import annotations

import functools

import torch
from torch.nn import functional

PLACES = {
    functional: ("linear", "conv2d", "group_norm", "layer_norm", "scaled_dot_product_attention", "softmax",
                 "interpolate", "gelu", "silu"),
    torch: ("bmm", "baddbmm", "matmul", "softmax", "addmm"),
    torch.functional._VF: ("einsum",),  # `torch.einsum` itself was imported by name before this
    torch.Tensor: ("softmax", "matmul", "__matmul__", "mean", "triu_"),
}  # fmt: skip


def is_half(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.float16 and value.device.type == "cpu"


def wide(value):
    if value is torch.float16:
        return torch.float32
    if isinstance(value, (list, tuple)):
        return type(value)(map(wide, value))
    return value.float() if is_half(value) else value


def through_float32(usual):
    @functools.wraps(usual)
    def computed(*args, **kwargs):
        flat = [*args, *kwargs.values(), *(x for arg in args if isinstance(arg, (list, tuple)) for x in arg)]
        if not any(is_half(value) for value in flat):
            return usual(*args, **kwargs)
        result = usual(*map(wide, args), **{name: wide(value) for name, value in kwargs.items()})
        if usual.__name__.endswith("_") and not usual.__name__.startswith("__"):
            return args[0].copy_(result)
        return result.half()

    return computed


for place, names in PLACES.items():
    for name in names:
        setattr(place, name, through_float32(getattr(place, name)))
