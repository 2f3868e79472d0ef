"""peft's LoRA of an embedding: the same product, stored the other way round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from lora_ext.adapters.lora import LoraAdapter
from lora_ext.adapters.reading import ALPHA, SCALES, Shape, check_layer, checked, fitted, rank_of, scale_of

A, B = "lora_embedding_A", "lora_embedding_B"


class EmbeddingLora(LoraAdapter):
    """ΔW = scale · (B A)ᵀ of an embedding [tokens, dim], A [r, tokens] and B [dim, r] (peft's `lora.Embedding`)."""

    tensor_names: ClassVar[frozenset[str]] = frozenset({A, B}) | SCALES
    marks: ClassVar[frozenset[str]] = frozenset({A, B})

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], shape: Shape) -> EmbeddingLora:
        """Read one layer. A missing alpha means alpha = rank."""
        check_layer(shape, "LoRA on an embedding", (2,))
        found = checked(tensors, (A, B))
        rank = rank_of(A, found[A])
        a, b = fitted(found, {A: (rank, shape[0]), B: (shape[1], rank)}, shape)
        return cls(b.t().contiguous(), a.t().contiguous(), None, scale_of(tensors, rank) * rank)

    def to_tensors(self) -> dict[str, Tensor]:
        """peft's names, and `alpha`."""
        a, b = self.up.detach().t().contiguous(), self.down.detach().t().contiguous()
        return {A: a, B: b, ALPHA: torch.tensor(self.alpha)}
