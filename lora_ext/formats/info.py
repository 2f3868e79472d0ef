"""What a network file says about itself, without a model and without reading its numbers."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lora_ext.formats.bundled import embedding_names
from lora_ext.formats.checkpoint import open_layout
from lora_ext.formats.cloneofsimo import NAMED
from lora_ext.formats.family import Shapes, family_of, foreign_model
from lora_ext.formats.safetensors_file import Header
from lora_ext.formats.tensor_names import grouped, kind_title
from lora_ext.layers import FAMILY_TITLES

RANKED = ("lora_down.weight", "hada_w1_b", "lokr_w2_b", "lokr_w1_b", "a2.weight")
"""Tensors whose first axis is the rank."""


@dataclass(frozen=True)
class FileInfo:
    """Facts about one file. `kinds`: layers by kind of adapter; `ranks`: layers by rank; `size` in bytes.

    `embeddings` are the words that call the textual inversion embeddings in it.

    `made_for` is the model the file was made for, in words, or "unknown". Hashes are those written in the file.
    """

    name: str
    size: int
    container: str
    tensors: int
    dtypes: Mapping[str, int]
    layers: int
    embeddings: tuple[str, ...]
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
    groups: list[Shapes] = [{name: shapes[key] for name, key in group.items()} for group in grouped(shapes).values()]
    groups += _positional(shapes)
    family = family_of(shapes, metadata)
    return FileInfo(
        name=path.name,
        size=path.stat().st_size,
        container="safetensors" if isinstance(layout, Header) else "pickle",
        tensors=len(shapes),
        dtypes=dict(Counter(str(dtype).removeprefix("torch.") for _, dtype in places.values())),
        layers=len(groups),
        embeddings=tuple(embedding_names(shapes, metadata)),
        kinds=dict(Counter(map(_kind, groups))),
        ranks=dict(sorted(Counter(_ranks(groups)).items())),
        made_for=foreign_model(shapes) or (FAMILY_TITLES[family] if family else "unknown"),
        model_hash=metadata.get("sshs_model_hash", ""),
        legacy_hash=metadata.get("sshs_legacy_hash", ""),
        metadata=dict(metadata),
    )


def _positional(shapes: Shapes) -> list[Shapes]:
    """The layers of a file that names none (cloneofsimo's)."""
    return [
        {"lora_down.weight": shape} for key, shape in shapes.items() if NAMED.fullmatch(key) and key.endswith("down")
    ]


def _kind(group: Shapes) -> str:
    title = kind_title(group)
    if title == "OFT" and len(group.get("oft_blocks", ())) == 4:
        return "BOFT"
    return "LoCon" if title == "LoRA" and group.get("lora_down.weight", ())[2:] not in ((), (1, 1)) else title


def _ranks(groups: Iterable[Shapes]) -> Iterator[int]:
    for group in groups:
        shape = next((group[name] for name in RANKED if group.get(name)), None)
        if shape:
            yield shape[0]
