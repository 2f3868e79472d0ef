"""One layer's file tensors for every kind, with random numbers, and the shapes and geometries to try them on."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from lora_ext.layers import ConvGeometry

Tensors = dict[str, torch.Tensor]
Draw = Callable[..., torch.Tensor]

LINEAR, POINT, CONV, FLAT = (12, 8), (8, 12, 1, 1), (12, 6, 3, 3), (6, 9, 3, 1)
GEOMETRIES = {
    LINEAR: [None],
    POINT: [None, ConvGeometry(), ConvGeometry((2, 2))],
    CONV: [ConvGeometry((1, 1), (1, 1)), ConvGeometry((2, 2), (1, 1)), ConvGeometry((1, 1), (0, 0), (2, 2))],
    FLAT: [ConvGeometry((1, 2), (1, 0))],
}


def draw(seed: int) -> Draw:
    g = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=g)


def lora(shape, rand: Draw, rank=3) -> Tensors:
    out, width, *kernel = shape
    ones = [1] * len(kernel)
    return {
        "lora_down.weight": rand(rank, width, *kernel),
        "lora_up.weight": rand(out, rank, *ones),
        "alpha": torch.tensor(2.0),
    }


def tucker(shape, rand: Draw, rank=3) -> Tensors:
    out, width, *kernel = shape
    ones = [1] * len(kernel)
    return {
        "lora_down.weight": rand(rank, width, *ones),
        "lora_mid.weight": rand(rank, rank, *kernel),
        "lora_up.weight": rand(out, rank, *ones),
        "alpha": torch.tensor(2.0),
    }


def loha(shape, rand: Draw, rank=3) -> Tensors:
    out, width = shape[0], math.prod(shape[1:])
    halves = {f"hada_w{i}_{s}": rand(*((out, rank) if s == "a" else (rank, width))) for i in (1, 2) for s in "ab"}
    return halves | {"alpha": torch.tensor(2.0)}


def loha_tucker(shape, rand: Draw, rank=3) -> Tensors:
    cores = {f"hada_t{i}": rand(rank, rank, *shape[2:]) for i in (1, 2)}
    halves = {
        f"hada_w{i}_{s}": rand(*((rank, shape[0]) if s == "a" else (rank, shape[1]))) for i in (1, 2) for s in "ab"
    }
    return cores | halves | {"alpha": torch.tensor(2.0)}


def lokr(shape, rand: Draw, p=2, q=None, rank=3, small=False, large=True, core=False) -> Tensors:
    """`small`, `large`: split that side."""
    q = q or next(n for n in (2, 3) if shape[1] % n == 0)
    b, d, kernel = shape[0] // p, shape[1] // q, shape[2:]
    out: Tensors = {"alpha": torch.tensor(2.0)}
    if small:
        out |= {"lokr_w1_a": rand(p, rank), "lokr_w1_b": rand(rank, q)}
    else:
        out["lokr_w1"] = rand(p, q)
    if core:
        out |= {"lokr_w2_a": rand(rank, b), "lokr_w2_b": rand(rank, d), "lokr_t2": rand(rank, rank, *kernel)}
    elif large:
        out |= {"lokr_w2_a": rand(b, rank), "lokr_w2_b": rand(rank, d * math.prod(kernel))}
    else:
        out["lokr_w2"] = rand(b, d, *kernel)
    return out


def glora(shape, rand: Draw, rank=3) -> Tensors:
    out, width, *kernel = shape
    ones = [1] * len(kernel)
    return {
        "a1.weight": rand(width, rank, *ones),
        "a2.weight": rand(rank, width, *ones),
        "b1.weight": rand(out, rank, *ones),
        "b2.weight": rand(rank, width, *kernel),
        "alpha": torch.tensor(2.0),
    }


def old_glora(shape, rand: Draw, rank=3) -> Tensors:
    new = glora(shape, rand, rank)
    swap = {"a1.weight": "a2.weight", "a2.weight": "a1.weight", "b1.weight": "b2.weight", "b2.weight": "b1.weight"}
    return {swap.get(name, name): tensor for name, tensor in new.items()}


def glora_tucker(shape, rand: Draw, rank=3) -> Tensors:
    ones = [1] * len(shape[2:])
    return glora(shape, rand, rank) | {
        "b2.weight": rand(rank, shape[1], *ones),
        "bm.weight": rand(rank, rank, *shape[2:]),
    }


def oft(shape, rand: Draw, wide=2, constraint=0.0, rescale=True) -> Tensors:
    out = {"oft_blocks": rand(shape[0] // wide, wide, wide), "alpha": torch.tensor(constraint)}
    return out | ({"rescale": rand(shape[0], *(1 for _ in shape[1:]))} if rescale else {})


def old_oft(shape, rand: Draw) -> Tensors:
    return {"oft_diag": rand(shape[0] // 2, 2, 2)}


def boft(shape, rand: Draw, rescale=True) -> Tensors:
    many = shape[0] // 2 & -(shape[0] // 2)  # the largest power of two in it
    wide = shape[0] // many
    out = {"oft_blocks": rand(many.bit_length(), many, wide, wide), "alpha": torch.tensor(0.0)}
    return out | ({"rescale": rand(shape[0], *(1 for _ in shape[1:]))} if rescale else {})


def ia3(shape, rand: Draw, on_input: bool) -> Tensors:
    n = shape[1] if on_input else shape[0]
    weight = rand(n) if len(shape) == 2 else rand(1, n, 1, 1)
    return {"weight": weight, "on_input": torch.tensor(int(on_input))}


def full(shape, rand: Draw) -> Tensors:
    return {"diff": rand(*shape)}


def dora(inner, axis: int) -> Callable[..., Tensors]:
    def make(shape, rand: Draw) -> Tensors:
        size = [1] * len(shape)
        size[axis] = shape[axis]
        return inner(shape, rand) | {"dora_scale": rand(*size).abs() + 0.1}

    return make


def sparse(shape, rand: Draw) -> Tensors:
    matrix = (shape[0], math.prod(shape[1:]))
    places = rand(*matrix).flatten().topk(5).indices
    return lora(shape, rand) | {
        "bias_indices": torch.stack([places // matrix[1], places % matrix[1]]).to(torch.int16),
        "bias_values": rand(5),
        "bias_size": torch.tensor(matrix).to(torch.int16),
    }


def turned_input(shape, rand: Draw) -> Tensors:
    columns = math.prod(shape[1:])
    wide = 2 if columns % 2 == 0 else 3
    return {"input_turn": rand(columns // wide, wide, wide), "output_factor": rand(shape[0])}


KINDS: dict[str, Callable[..., Tensors]] = {
    "lora": lora,
    "lora tucker": tucker,
    "loha": loha,
    "loha tucker": loha_tucker,
    "lokr": lokr,
    "lokr both split": lambda s, r: lokr(s, r, small=True),
    "lokr small split": lambda s, r: lokr(s, r, small=True, large=False),
    "lokr whole": lambda s, r: lokr(s, r, large=False),
    "lokr tucker": lambda s, r: lokr(s, r, core=True),
    "glora": glora,
    "glora old": old_glora,
    "glora tucker": glora_tucker,
    "oft": oft,
    "oft bound": lambda s, r: oft(s, r, constraint=0.01, rescale=False),
    "oft old": old_oft,
    "boft": boft,
    "ia3 input": lambda s, r: ia3(s, r, True),
    "ia3 output": lambda s, r: ia3(s, r, False),
    "full": full,
    "dora per output": dora(lora, 0),
    "dora per input": dora(lora, 1),
    "dora of tucker": dora(tucker, 0),
    "dora of loha": dora(loha, 1),
    "dora of lokr": dora(lokr, 0),
    "dora of glora": dora(glora, 1),
    "dora of oft": dora(oft, 0),
    "dora of boft": dora(boft, 1),
    "dora of ia3": dora(lambda s, r: ia3(s, r, True), 0),
    "dora of full": dora(full, 1),
    "dora of sparse": dora(sparse, 0),
    "sparse": sparse,
    "turned input": turned_input,
    "kept module": lambda shape, rand: {"kept.weight": rand(*shape)},
}
