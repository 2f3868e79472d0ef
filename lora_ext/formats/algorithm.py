"""What a network's metadata say of its kind: the arguments under which LyCORIS would have made it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from lora_ext.adapters import Adapter
from lora_ext.adapters.butterfly import BoftAdapter
from lora_ext.adapters.dora import DoraAdapter
from lora_ext.adapters.full import B_NORM, W_NORM, FullAdapter
from lora_ext.adapters.glora import GloraAdapter
from lora_ext.adapters.ia3 import Ia3Adapter
from lora_ext.adapters.loha import LohaAdapter
from lora_ext.adapters.lokr import LokrAdapter
from lora_ext.adapters.lora import LoraAdapter
from lora_ext.adapters.rotation import OftAdapter

NAMES: Mapping[type[Adapter], str] = {
    LoraAdapter: "lora",
    LohaAdapter: "loha",
    LokrAdapter: "lokr",
    GloraAdapter: "glora",
    OftAdapter: "diag-oft",
    BoftAdapter: "boft",
    Ia3Adapter: "ia3",
    FullAdapter: "full",
}
"""LyCORIS' names of the kinds, as its `algo` takes them."""


def algorithm_of(adapters: Collection[Adapter]) -> dict[str, str]:
    """LyCORIS' network arguments for adapters of these kinds; nothing for plain LoRA and LoCon, which are kohya's own.

    Of several kinds the most frequent is told.
    """
    found = [_inner(adapter) for adapter in adapters]
    norms = any(isinstance(adapter, FullAdapter) and adapter.name in (W_NORM, B_NORM) for adapter in found)
    kinds = Counter(name for adapter in found if (name := _name(adapter)))
    algorithm = max(kinds, key=lambda name: kinds[name], default="full" if norms else "")
    told: dict[str, str] = {key: "True" for key in _marks(adapters)} | ({"train_norm": "True"} if norms else {})
    if any(isinstance(adapter, DoraAdapter) and adapter.axis == 1 for adapter in adapters):
        told["wd_on_output"] = "False"
    return {"algo": algorithm, **told} if told or algorithm not in ("", "lora") else {}


def _inner(adapter: Adapter) -> Adapter:
    return adapter.inner if isinstance(adapter, DoraAdapter) else adapter


def _name(adapter: Adapter) -> str:
    if isinstance(adapter, FullAdapter) and adapter.name in (W_NORM, B_NORM):
        return ""
    return next((name for kind, name in NAMES.items() if isinstance(adapter, kind)), "")


def _marks(adapters: Collection[Adapter]) -> Iterator[str]:
    """Switches that some adapter shows to have been on."""
    if any(isinstance(adapter, DoraAdapter) for adapter in adapters):
        yield "dora_wd"
    found = [_inner(adapter) for adapter in adapters]
    cores = (getattr(adapter, name, None) for adapter in found for name in ("mid", "t1", "t2", "bm"))
    if any(core is not None for core in cores):
        yield "use_tucker"
    if any(isinstance(adapter, (OftAdapter, BoftAdapter)) and adapter.rescale is not None for adapter in found):
        yield "rescaled"
