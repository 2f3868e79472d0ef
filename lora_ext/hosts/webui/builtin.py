"""The host's own LoRA loader (`extensions-builtin/Lora`): put to sleep while ours works, and woken again.

Its modules stay importable, because other extensions import `networks`. It is reached by what it left in
`sys.modules`; when the user has switched it off there is nothing to do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from modules import patches
from torch import nn

from lora_ext.hosts.webui.weights import HostModel

OWNER = "lora_patches"  # under this key the builtin registers its patches
PATCHED = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.MultiheadAttention)


class Builtin:
    """The builtin loader, or nothing."""

    def __init__(self, networks: ModuleType | None) -> None:
        self.networks: Any = networks  # not ours to type

    @classmethod
    def find(cls) -> Builtin:
        """The loader of this process."""
        found = sys.modules.get("networks")
        return cls(found if hasattr(found, "network_Linear_forward") else None)

    @property
    def there(self) -> bool:
        """Whether the host has it."""
        return self.networks is not None

    def sleep(self, model: HostModel) -> None:
        """No networks, weights as loaded, and forwards without its Python in every layer."""
        if self.there:
            self.empty(model)
            for owner, field, theirs in self._patches():
                # someone may have patched on top of it: then it cannot be taken out from below
                if getattr(owner, field) is theirs:
                    patches.undo(OWNER, owner, field)

    def wake(self) -> None:
        """Its patches on again, as it left them."""
        if self.there:
            for owner, field, theirs in self._patches():
                if patches.original(OWNER, owner, field) is None:
                    kept = f"{owner.__name__}_{field.strip('_').replace('load_from', 'load')}"
                    setattr(self.networks.originals, kept, patches.patch(OWNER, owner, field, theirs))

    def empty(self, model: HostModel) -> None:
        """Take its networks out of the weights; its copies of the weights are freed."""
        if not self.there:
            return
        if self.networks.loaded_networks:
            self.networks.load_networks([])
        with torch.no_grad():
            for module in model.modules():
                if any(getattr(module, f"network_{kind}_backup", None) is not None for kind in ("weights", "bias")):
                    self.networks.network_restore_weights_from_backup(module)
                    self.networks.network_reset_cached_weight(module)

    def list_again(self, name: str) -> None:
        """Let it know a file of this name (without suffix), for its cards and tags."""
        if self.there:
            self.networks.update_available_networks_by_names([name])

    def _patches(self) -> Iterator[tuple[type[nn.Module], str, Callable[..., object]]]:
        for owner in PATCHED:
            for field, suffix in (("forward", "forward"), ("_load_from_state_dict", "load_state_dict")):
                yield owner, field, getattr(self.networks, f"network_{owner.__name__}_{suffix}")
