"""Which class reads which tensors: the one list that a new algorithm is added to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from lora_ext.adapters.base import Adapter
from lora_ext.adapters.lora import LoraAdapter
from lora_ext.errors import BadInput, Problem

KINDS: tuple[type[Adapter], ...] = (LoraAdapter,)


def kind_of(tensor_names: Iterable[str]) -> type[Adapter] | None:
    """The first kind that understands *every* one of a layer's tensor names, or None.

    Half-understood layers count as not understood: LoRA factors next to a `dora_scale` are no LoRA.
    """
    names = set(tensor_names)
    return next((kind for kind in KINDS if names and names <= kind.tensor_names), None)


def adapter_for(tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> Adapter:
    """Build the adapter of one layer from its file tensors (names without the layer prefix).

    Raises `BadInput` when no kind reads them or when they do not fit a layer of `shape`.
    """
    kind = kind_of(tensors)
    if kind is None:
        readable = " or ".join("/".join(sorted(k.tensor_names)) for k in KINDS)
        raise BadInput(Problem(", ".join(sorted(tensors)), "is a kind of adapter that cannot be read", readable))
    return kind.from_tensors(tensors, shape)
