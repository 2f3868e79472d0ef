"""The UNet's forward pass on a tape: the order and the habits of diffusers' `UNet2DConditionModel`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lora_ext.layers import Layer
from lora_ext.model.architecture import UNetShape
from lora_ext.training.tape import FULL, Ghost, Tape

Adapt = Callable[[Tape, Layer, Ghost, Ghost], None]
"""Notes what the adapter of a layer keeps, from the layer's input and output; nothing for a layer without one."""

Again = Callable[[int, str], bool]
"""Whether a block of a level ("resnet", "transformer") computes its insides again in the backward pass."""


@dataclass(frozen=True)
class Walk:
    """One pass over a model of `shape` whose layers are `layers` (by module path); `learning` are the paths of modules
    with adapters that learn.
    """

    shape: UNetShape
    layers: Mapping[str, Layer]
    learning: frozenset[str]
    adapt: Adapt
    again: Again
    tape: Tape

    def run(self, batch: int, height: int, width: int, context: Ghost) -> None:
        """A batch of latents [B, C, height, width] with `context` [B·n·77, C]."""
        tape, shape = self.tape, self.shape
        embedding = self._embedding(batch)
        sides = [(height, width)]
        for _ in shape.channels[1:]:
            sides.append((math.ceil(sides[-1][0] / 2), math.ceil(sides[-1][1] / 2)))
        rows = [batch * h * w for h, w in sides]
        x = Ghost(rows[0], shape.in_channels, FULL, learns=False)
        x = self._layer("conv_in", x)
        skips = [x]
        for level in range(len(shape.channels)):
            block = f"down_blocks.{level}"
            for i in range(shape.res_blocks):
                x = self._resnet(f"{block}.resnets.{i}", level, x, embedding)
                if shape.depth[level]:
                    x = self._transformer(f"{block}.attentions.{i}", level, shape.depth[level], x, context, batch)
                skips.append(x)
            if level + 1 < len(shape.channels):
                x = self._layer(f"{block}.downsamplers.0.conv", x, rows=rows[level + 1])
                skips.append(x)
        last = len(shape.channels) - 1
        x = self._resnet("mid_block.resnets.0", last, x, embedding, again=False)  # diffusers leaves this one out
        if shape.middle_depth:
            x = self._transformer("mid_block.attentions.0", last, shape.middle_depth, x, context, batch)
            x = self._resnet("mid_block.resnets.1", last, x, embedding)
        for i, level in enumerate(reversed(range(len(shape.channels)))):
            block = f"up_blocks.{i}"
            for j in range(shape.res_blocks + 1):
                x = self._joined(x, skips.pop())
                x = self._resnet(f"{block}.resnets.{j}", level, x, embedding)
                if shape.depth[level]:
                    x = self._transformer(f"{block}.attentions.{j}", level, shape.up_depth(level, j), x, context, batch)
            if level:
                x = Ghost(rows[level - 1], x.width, x.item, x.learns)
                x = self._layer(f"{block}.upsamplers.0.conv", x)
        x = tape.pointwise(self._norm("conv_norm_out", x))
        x = self._layer("conv_out", x)
        tape.finish()

    def _layer(self, module: str, x: Ghost, rows: int | None = None) -> Ghost:
        layer = self.layers[module]
        inside = math.prod(layer.shape[1:])
        conv, learns = layer.op == "conv" and not self._linear(layer), module in self.learning
        out = self.tape.product(x, layer.shape[0], inside, conv=conv, rows=rows, learns=learns)
        self.adapt(self.tape, layer, x, out)
        return out

    def _norm(self, module: str, x: Ghost) -> Ghost:
        return self.tape.norm(x, module in self.learning)

    def _linear(self, layer: Layer) -> bool:
        """Whether a projection that the checkpoint holds as a convolution is a linear layer to diffusers."""
        return self.shape.linear_projection and layer.module.endswith(("proj_in", "proj_out"))

    def _embedding(self, batch: int) -> Ghost:
        x = Ghost(batch, self.shape.channels[0], FULL, learns=False)
        return self._layer("time_embedding.linear_2", self.tape.pointwise(self._layer("time_embedding.linear_1", x)))

    def _joined(self, x: Ghost, skip: Ghost) -> Ghost:
        return Ghost(x.rows, x.width + skip.width, max(x.item, skip.item), x.learns or skip.learns)

    def _resnet(self, at: str, level: int, x: Ghost, embedding: Ghost, again: bool = True) -> Ghost:
        tape = self.tape
        with tape.checkpoint(again and self.again(level, "resnet"), x, embedding):
            h = self._layer(f"{at}.conv1", tape.pointwise(self._norm(f"{at}.norm1", x)))
            time = self._layer(f"{at}.time_emb_proj", tape.pointwise(embedding))
            h = Ghost(h.rows, h.width, h.item, h.learns or time.learns)
            h = self._layer(f"{at}.conv2", tape.pointwise(self._norm(f"{at}.norm2", h)))
            if f"{at}.conv_shortcut" in self.layers:
                x = self._layer(f"{at}.conv_shortcut", x)
            return tape.add(x, h)

    def _transformer(self, at: str, level: int, depth: int, x: Ghost, context: Ghost, batch: int) -> Ghost:
        tape = self.tape
        h = self._layer(f"{at}.proj_in", self._norm(f"{at}.norm", x))
        for i in range(depth):
            block, heads = f"{at}.transformer_blocks.{i}", self.shape.heads[level]
            with tape.checkpoint(self.again(level, "transformer"), h, context):
                n = self._norm(f"{block}.norm1", h)
                h = tape.add(h, self._attention(f"{block}.attn1", n, n, heads, batch))
                n = self._norm(f"{block}.norm2", h)
                h = tape.add(h, self._attention(f"{block}.attn2", n, context, heads, batch))
                h = tape.add(h, self._feed_forward(f"{block}.ff.net", self._norm(f"{block}.norm3", h)))
        return tape.add(self._layer(f"{at}.proj_out", h), x)

    def _attention(self, at: str, x: Ghost, seen: Ghost, heads: int, batch: int) -> Ghost:
        q, k, v = self._layer(f"{at}.to_q", x), self._layer(f"{at}.to_k", seen), self._layer(f"{at}.to_v", seen)
        return self._layer(f"{at}.to_out.0", self.tape.attention(q, k, v, heads, batch))

    def _feed_forward(self, at: str, x: Ghost) -> Ghost:
        """GEGLU: one half of what the first layer gives, times the GELU of the other."""
        both = self._layer(f"{at}.0.proj", x)
        gate = self.tape.like(both, width=both.width // 2)
        product = self.tape.like(gate)
        if both.learns:
            self.tape.keep(both, gate)
            self.tape.gradients(both, gate, product)
        return self._layer(f"{at}.2", product)
