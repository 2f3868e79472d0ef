"""Which class reads which tensors: the one list that a new algorithm is added to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from lora_ext.adapters.base import Adapter
from lora_ext.adapters.butterfly import BoftAdapter, turning
from lora_ext.adapters.dora import DoraAdapter
from lora_ext.adapters.embedding import EmbeddingLora
from lora_ext.adapters.full import FullAdapter
from lora_ext.adapters.glora import GloraAdapter
from lora_ext.adapters.ia3 import Ia3Adapter
from lora_ext.adapters.kept_module import KeptModule
from lora_ext.adapters.loha import LohaAdapter
from lora_ext.adapters.lokr import LokrAdapter
from lora_ext.adapters.lora import LoraAdapter
from lora_ext.adapters.rotation import OftAdapter
from lora_ext.adapters.sparse import SparseAdapter
from lora_ext.adapters.turned_input import BiasFactor, TurnedInput
from lora_ext.errors import BadInput, Problem

KINDS: tuple[type[Adapter], ...] = (
    LoraAdapter,
    DoraAdapter,
    LohaAdapter,
    LokrAdapter,
    GloraAdapter,
    OftAdapter,
    BoftAdapter,
    Ia3Adapter,
    FullAdapter,
    SparseAdapter,
    EmbeddingLora,
    TurnedInput,
    BiasFactor,
    KeptModule,
)


def kind_of(tensor_names: Iterable[str]) -> type[Adapter] | None:
    """The first kind that understands *every* one of a layer's tensor names, or None.

    Half-understood layers count as not understood: LoRA factors next to an unknown tensor are no LoRA. OFT and BOFT
    have the same names and differ in their tensors' axes: here both are OFT.
    """
    names = set(tensor_names)
    return next((kind for kind in KINDS if kind.reads(names)), None)


def adapter_for(tensors: Mapping[str, Tensor], shape: tuple[int, ...], *, as_stored: bool = False) -> Adapter:
    """Build the adapter of one layer from its file tensors (names without the layer prefix).

    `as_stored` is for plain LoRA, see `LoraAdapter.as_stored`; other kinds make copies in float32 all the same.
    Raises `BadInput` when no kind reads them or when they do not fit a layer of `shape`.
    """
    kind = kind_of(tensors)
    if kind is OftAdapter:
        kind = turning(tensors)
    if kind is None:
        readable = " or ".join("/".join(sorted(k.tensor_names)) for k in KINDS)
        raise BadInput(Problem(", ".join(sorted(tensors)), "is a kind of adapter that cannot be read", readable))
    if as_stored and kind is LoraAdapter:
        return LoraAdapter.as_stored(tensors, shape)
    return kind.from_tensors(tensors, shape)
