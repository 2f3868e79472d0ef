"""Where a checkpoint file holds each tensor, for the patcher to read W0 from."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from lora_ext.errors import BadInput
from lora_ext.formats.checkpoint import open_layout
from lora_ext.formats.safetensors_file import Header
from lora_ext.patching import Identity, Slot, WeightFile, identity_of


def weight_file(path: str | os.PathLike[str]) -> WeightFile | None:
    """The places of a .safetensors file's tensors; None for anything else, and for a file that cannot be read."""
    try:
        return _slots(Path(path), identity_of(os.stat(path)))
    except (OSError, ValueError, BadInput):
        return None


@lru_cache(maxsize=2)
def _slots(path: Path, identity: Identity) -> WeightFile | None:
    layout = open_layout(path)
    if not isinstance(layout, Header):
        return None
    slots = {key: Slot(s.dtype, s.shape, layout.data_start + s.begin) for key, s in layout.slots.items()}
    return WeightFile(path, identity, slots)
