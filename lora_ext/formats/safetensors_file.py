"""The .safetensors container, read with distrust and written byte for byte alike each time.

Layout (https://github.com/huggingface/safetensors): 8 bytes little-endian header length, JSON header, tensor data.
Nothing is allocated from a number in the file before that number was checked against the file's real size.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lora_ext.errors import BadInput, Problem

METADATA = "__metadata__"
HEADER_LIMIT = 32 << 20
"""Longest header read. Real ones, with tag counts of a large data set, stay below 10 MB."""

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}

Object = dict[str, object]


class Slot(NamedTuple):
    """One tensor's place: byte range `begin`..`end` counted from the end of the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """A checked header. `data_start` is the file position of the tensor data, `data_bytes` its length."""

    slots: Mapping[str, Slot]
    metadata: Mapping[str, str]
    data_start: int
    data_bytes: int


def read_header(path: Path) -> Header:
    """Read and check the header. Raises `BadInput` naming the file for everything that is wrong with it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise _bad(path, "the file is too short to be a model", "at least 8 bytes", f"{size} bytes")
        length = int.from_bytes(start, "little")
        if length > size - 8 and length > HEADER_LIMIT:  # what the first bytes of any other kind of file come to
            raise _bad(path, "this is no safetensors file, or its start is damaged", "a header's length, then JSON")
        if length > size - 8:
            raise _bad(path, "the file is cut off or damaged", f"a header of {length} bytes", f"a file of {size} bytes")
        if length > HEADER_LIMIT:
            raise _bad(path, "the header is too long", f"at most {HEADER_LIMIT} bytes", f"{length} bytes")
        raw = file.read(length)
    entries = _parse(path, raw)
    metadata = _metadata(path, entries.pop(METADATA, {}))
    slots = {name: _slot(path, name, entry) for name, entry in entries.items()}
    _check_ranges(path, slots, size - 8 - length)
    return Header(slots, metadata, 8 + length, size - 8 - length)


def tensors_of(header: Header, content: Tensor) -> dict[str, Tensor]:
    """Views into `content`, the whole file as uint8 [bytes]; a range that is not aligned for its dtype is copied."""
    runs: dict[torch.dtype, Tensor] = {}
    out: dict[str, Tensor] = {}
    for name, (dtype, shape, first, last) in header.slots.items():
        begin, end, size = header.data_start + first, header.data_start + last, dtype.itemsize
        if begin % size:
            out[name] = content[begin:end].clone().view(dtype).view(shape)
            continue
        if dtype not in runs:  # one view for all: a file has thousands of tensors
            runs[dtype] = content[: len(content) // size * size].view(dtype)
        out[name] = runs[dtype][begin // size : end // size].view(shape)
    return out


def header_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Length and JSON header for `tensors` laid out in the mapping's order, padded so that data starts 8-aligned."""
    entries: Object = {METADATA: dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode("utf8", "replace")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def data_bytes(tensors: Mapping[str, Tensor]) -> Iterable[bytes]:
    """The tensor data in the mapping's order, one piece per tensor, little-endian as every host is."""
    for tensor in tensors.values():
        yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _parse(path: Path, raw: bytes) -> Object:
    if not raw.startswith(b"{"):
        raise _bad(path, "this is not a .safetensors file", "a header that begins with {", repr(raw[:20]))
    try:
        entries = json.loads(raw.decode("utf8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as e:
        raise _bad(path, "the header is no valid JSON", got=str(e)[:200]) from None
    if not isinstance(entries, dict):
        raise _bad(path, "the header is no JSON object")
    return entries


def _unique(pairs: list[tuple[str, object]]) -> Object:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a name comes twice")
    return out


def _metadata(path: Path, entry: object) -> dict[str, str]:
    if not isinstance(entry, dict):
        raise _bad(path, "the metadata is no JSON object", got=type(entry).__name__)
    for key, value in entry.items():
        if not isinstance(value, str):
            raise _bad(path, f"metadata {key!r} is no text", "text", type(value).__name__)
    return entry


def _slot(path: Path, name: str, entry: object) -> Slot:
    if not isinstance(entry, dict):
        raise _bad(path, f"tensor {name}: its description is no JSON object")
    dtype = DTYPES.get(str(entry.get("dtype")))
    if dtype is None:
        raise _bad(path, f"tensor {name}: unknown number type", ", ".join(DTYPES), repr(entry.get("dtype")))
    shape, offsets = _counts(entry.get("shape")), _counts(entry.get("data_offsets"))
    if shape is None or offsets is None or len(offsets) != 2:
        raise _bad(path, f"tensor {name}: shape or offsets are damaged", "lists of whole numbers")
    begin, end = offsets
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise _bad(
            path,
            f"tensor {name}: size and shape disagree",
            f"{math.prod(shape) * dtype.itemsize} bytes",
            f"{end - begin}",
        )
    return Slot(dtype, shape, begin, end)


def _counts(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list) or len(value) > 16:
        return None
    for n in value:  # a loop of its own: asked for thousands of times per file
        if type(n) is not int or not 0 <= n < 1 << 62:  # a bool is an int, too
            return None
    return tuple(value)


def _check_ranges(path: Path, slots: Mapping[str, Slot], available: int) -> None:
    position = 0
    for name, slot in sorted(slots.items(), key=lambda item: (item[1].begin, item[1].end)):
        if slot.begin < position:
            raise _bad(path, f"tensor {name} overlaps another one", f"begin at {position}", str(slot.begin))
        if slot.begin > position:
            raise _bad(path, f"there is a hole before tensor {name}", f"begin at {position}", str(slot.begin))
        position = slot.end
    if position > available:
        raise _bad(path, "the file is cut off", f"{position} bytes of tensors", f"{available}", "Download it again.")
    if position < available:
        raise _bad(path, "the file has bytes that no tensor owns", f"{position} bytes of tensors", f"{available}")


def _bad(path: Path, what: str, expected: str = "", got: str = "", fix: str = "") -> BadInput:
    return BadInput(Problem(os.fspath(path), what, expected, got, fix))
