"""PiSSA: LoRA that starts from the weight's own strongest directions instead of from nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from lora_ext.adapters.base import Factors
from lora_ext.adapters.lora import DOWN, UP, LoraAdapter
from lora_ext.adapters.reading import ALPHA, Shape, check_layer
from lora_ext.adapters.start import check_rank
from lora_ext.layers import ConvGeometry


class PissaAdapter(LoraAdapter):
    """ΔW = scale · (up · down − up₀ · down₀), `up₀ down₀` the best rank-r part of W0 (PiSSA, arXiv 2404.02948 eq. 2-4).

    The paper takes that part out of W0 and trains it; here W0 stays as it is and the start is taken off ΔW, which is
    the same sum. Saved as a plain LoRA of twice the rank, as the paper's appendix C does, so that every host reads it.
    """

    def __init__(self, down: Tensor, up: Tensor, alpha: float) -> None:
        super().__init__(down, up, None, alpha)
        self.start_down: Tensor
        self.start_up: Tensor
        self.register_buffer("start_down", down.detach().clone())
        self.register_buffer("start_up", up.detach().clone())

    @classmethod
    def of(cls, base: Tensor, shape: Shape, rank: int, alpha: float) -> PissaAdapter:
        """From the layer's own weight `base` (any dtype and device); ΔW is exactly zero at the start.

        `rank` is cut to what the weight has.
        """
        check_layer(shape, "PiSSA")
        check_rank(rank, alpha)
        out, width, *kernel = shape
        left, values, right = torch.linalg.svd(base.detach().to("cpu", torch.float32).flatten(1), full_matrices=False)
        rank = min(rank, len(values))
        root = (values[:rank] * (rank / abs(alpha))).sqrt()
        sign = 1.0 if alpha > 0 else -1.0
        up = (left[:, :rank] * root * sign).reshape(out, rank, *(1 for _ in kernel))
        down = (root[:, None] * right[:rank]).reshape(rank, width, *kernel)
        return cls(down.contiguous(), up.contiguous(), alpha)

    def to_tensors(self) -> dict[str, Tensor]:
        """A LoRA of twice the rank and twice the alpha."""
        down = torch.cat([self.down.detach(), self.start_down])
        up = torch.cat([self.up.detach(), -self.start_up], 1)
        return {DOWN: down, UP: up, ALPHA: torch.tensor(2 * self.alpha)}

    def factors(self) -> Factors:
        """Both products side by side."""
        own, start = super().factors(), self._start().factors()
        return Factors(torch.cat([own.up, -start.up], 1), torch.cat([own.down, start.down]), own.scale)

    def delta(self, base: Tensor) -> Tensor:
        """ΔW in the shape of `base`, whose values are not looked at."""
        own = super().factors()  # not `delta`, which would ask for the factors of both
        return own.product().reshape(base.shape) - self._start().delta(base)

    def forward_delta(self, x: Tensor, base: Tensor, geometry: ConvGeometry | None) -> Tensor:
        """ΔW on the layer's input, by four small products."""
        return super().forward_delta(x, base, geometry) - self._start().forward_delta(x, base, geometry)

    def _start(self) -> LoraAdapter:
        start = LoraAdapter(self.start_down, self.start_up, None, self.alpha).requires_grad_(False)
        start.mask = self.mask
        return start
