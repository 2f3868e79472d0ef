"""What a network file says about itself, without a model and without reading its numbers."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lora_ext.formats.checkpoint import open_layout
from lora_ext.formats.safetensors_file import Header
from lora_ext.formats.tensor_names import family_of, foreign_model, kind_title, split_blindly
from lora_ext.layers import FAMILY_TITLES


@dataclass(frozen=True)
class FileInfo:
    """Facts about one file. `kinds`: layers by kind of adapter; `ranks`: LoRA layers by rank; `size` in bytes.

    `made_for` is the model the file was made for, in words, or "unknown". Hashes are those written in the file.
    """

    name: str
    size: int
    container: str
    tensors: int
    dtypes: Mapping[str, int]
    layers: int
    kinds: Mapping[str, int]
    ranks: Mapping[int, int]
    made_for: str
    model_hash: str
    legacy_hash: str
    metadata: Mapping[str, str]


def read_info(path: str | os.PathLike[str]) -> FileInfo:
    """Read the header (of a .pt: the table of tensors) of a network file. Raises `BadInput` for damaged files."""
    path = Path(path)
    layout = open_layout(path)
    metadata = layout.metadata if isinstance(layout, Header) else {}
    if isinstance(layout, Header):
        places = {k: (s.shape, s.dtype) for k, s in layout.slots.items()}
    else:
        places = {k: (p.size, p.dtype) for k, p in layout.plans.items()}
    shapes = {key: shape for key, (shape, _) in places.items()}
    groups: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, shape in shapes.items():
        split = split_blindly(key)
        if split is not None:
            groups.setdefault(split[0], {})[split[1]] = shape
    family = family_of(shapes, metadata)
    return FileInfo(
        name=path.name,
        size=path.stat().st_size,
        container="safetensors" if isinstance(layout, Header) else "pickle",
        tensors=len(shapes),
        dtypes=dict(Counter(str(dtype).removeprefix("torch.") for _, dtype in places.values())),
        layers=len(groups),
        kinds=dict(Counter(_kind(group) for group in groups.values())),
        ranks=dict(sorted(Counter(_ranks(groups)).items())),
        made_for=foreign_model(shapes) or (FAMILY_TITLES[family] if family else "unknown"),
        model_hash=metadata.get("sshs_model_hash", ""),
        legacy_hash=metadata.get("sshs_legacy_hash", ""),
        metadata=dict(metadata),
    )


def _kind(group: Mapping[str, tuple[int, ...]]) -> str:
    title = kind_title(group)
    return "LoCon" if title == "LoRA" and group.get("lora_down.weight", ())[2:] not in ((), (1, 1)) else title


def _ranks(groups: Mapping[str, Mapping[str, tuple[int, ...]]]) -> list[int]:
    return [g["lora_down.weight"][0] for g in groups.values() if g.get("lora_down.weight")]
