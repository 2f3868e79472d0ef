"""`dyn=n`: only the first n ranks of a LoRA, for files whose ranks are sorted by what they matter."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from lora_ext.adapters import Adapter, LoraAdapter, Network

_made: WeakKeyDictionary[Network, dict[int, Network]] = WeakKeyDictionary()


def first_ranks(network: Network, count: int) -> Network:
    """The network with the first `count` ranks of its LoRA layers (scale as before), the same object at every call.

    Other kinds, and convolutions with a Tucker core, are taken whole, as A1111 does. Numbers are shared with
    `network`.
    """
    known = _made.setdefault(network, {})
    if count not in known:
        adapters = {layer: _first(adapter, count) for layer, adapter in network.adapters.items()}
        kept = {layer: adapter for layer, adapter in adapters.items() if adapter is not None}
        known[count] = Network(network.name, kept, network.metadata, f"{network.identity}:{count}")
    return known[count]


def taken_whole(network: Network) -> int:
    """How many layers `first_ranks` leaves as they are."""
    return sum(not _has_ranks(adapter) for adapter in network.adapters.values())


def _has_ranks(adapter: Adapter) -> bool:
    return isinstance(adapter, LoraAdapter) and adapter.mid is None


def _first(adapter: Adapter, count: int) -> Adapter | None:
    if not isinstance(adapter, LoraAdapter) or not _has_ranks(adapter) or count >= adapter.rank:
        return adapter
    if count == 0:
        return None
    down, up = adapter.down.detach()[:count], adapter.up.detach()[:, :count]
    return LoraAdapter(down, up, None, adapter.scale * count)
