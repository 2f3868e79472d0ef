"""A network: one loaded (or being trained) file, as adapters by layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import nn

from lora_ext.adapters.base import Adapter
from lora_ext.layers import LayerName


@dataclass(eq=False)
class Network:
    """Adapters by layer plus the file's metadata. Hashable by object identity, so it can be a key of a wanted state.

    `identity` orders networks when their deltas are summed, so that the sum does not depend on the order they were
    asked for in; loaders set it to a hash of the content, the trainer to the run's id.
    """

    name: str
    adapters: dict[LayerName, Adapter]
    metadata: dict[str, str] = field(default_factory=dict)
    identity: str = ""

    def parameters(self) -> Iterator[nn.Parameter]:
        """All trainable parameters, in layer order."""
        for name in sorted(self.adapters):
            yield from self.adapters[name].parameters()
