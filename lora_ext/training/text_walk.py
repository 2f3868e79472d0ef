"""A text encoder's forward pass on a tape, as transformers' CLIP makes it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lora_ext.layers import Layer
from lora_ext.model.architecture import TextShape
from lora_ext.training.tape import FULL, Ghost, Tape
from lora_ext.training.unet_walk import Adapt


def walk_text(
    shape: TextShape,
    layers: Mapping[str, Layer],
    learning: frozenset[str],
    adapt: Adapt,
    tape: Tape,
    pieces: int,
) -> Ghost:
    """`pieces` rows of 77 tokens through one encoder: what the UNet is told, [pieces · 77, width]."""

    def layer(module: str, x: Ghost) -> Ghost:
        found = layers[module]
        out = tape.product(x, found.shape[0], math.prod(found.shape[1:]), learns=module in learning)
        adapt(tape, found, x, out)
        return out

    h = Ghost(pieces * shape.positions, shape.width, FULL, learns=False)
    for i in range(shape.layers):
        at = f"text_model.encoder.layers.{i}"
        n = tape.norm(h)
        q, k, v = (layer(f"{at}.self_attn.{part}_proj", n) for part in "qkv")
        scores = Ghost(pieces * shape.positions, shape.positions * shape.heads, FULL, q.learns)
        if q.learns:
            tape.keep(scores)
        h = tape.add(h, layer(f"{at}.self_attn.out_proj", tape.attention(q, k, v, shape.heads, pieces)))
        up = layer(f"{at}.mlp.fc1", tape.norm(h))
        if shape.activation == "quick_gelu" and up.learns:  # x · σ(1.702 x), step by step
            tape.keep(tape.like(up))
        h = tape.add(h, layer(f"{at}.mlp.fc2", tape.pointwise(up)))
    return tape.norm(h)
