"""torch.save files (.ckpt, .pt, .bin): both zip layouts and the one before torch 1.6, through our own unpickler."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from lora_ext.errors import BadInput, Problem
from lora_ext.formats.unpickler import Storage, TensorPlan, load_one

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
PICKLE_START, PICKLE_LIMIT = 1 << 20, 32 << 20
"""Bytes of a pickle without its numbers: what nearly all fit in, and the most that is read."""
LARGEST_NUMBER = 1 << 62
NESTS = ("state_dict", "lora", "plugin", "model", "module", "params", "base")
"""Names under which trainers nest the tensors one level deep; the first that holds tensors wins."""


@dataclass(frozen=True)
class PickleFile:
    """What the file holds, before any number is read: tensors, plain numbers, and where each storage's bytes begin."""

    path: Path
    plans: Mapping[str, TensorPlan]
    numbers: Mapping[str, float]
    places: Mapping[str, int]

    def tensors(self, content: Tensor) -> dict[str, Tensor]:
        """The tensors as views into `content`, the whole file as uint8 (copied where it is not aligned)."""
        out: dict[str, Tensor] = {}
        for name, plan in self.plans.items():
            out[name] = _view(plan, self.places, content)
        return out | {name: torch.tensor(value) for name, value in self.numbers.items()}


def open_zip(path: Path) -> PickleFile:
    """Read the newer layouts (torch >= 1.6, with or without `.data/serialization_id` and the like)."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            program = [i for i in infos if i.filename.count("/") == 1 and i.filename.endswith("/data.pkl")]
            if len(program) != 1:
                raise _bad(path, "this archive holds no torch model", "one data.pkl", f"{len(program)}")
            if program[0].file_size > PICKLE_LIMIT or program[0].compress_type != zipfile.ZIP_STORED:
                raise _bad(path, "the archive's data.pkl is too large or compressed")
            root = program[0].filename.removesuffix("data.pkl")
            _check_byteorder(path, archive, root)
            loaded = _load(path, io.BytesIO(archive.read(program[0])))
            members = [i for i in infos if i.filename.startswith(root + "data/")]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, EOFError) as e:
        if isinstance(e, BadInput):
            raise
        raise _bad(path, "the archive is damaged or cut off", got=str(e)[:200], fix="Download it again.") from None
    plans, numbers = _flatten(path, loaded)
    return PickleFile(path, plans, numbers, _zip_places(path, members, root, plans))


def open_legacy(path: Path) -> PickleFile:
    """Read the layout before torch 1.6: five pickles, then each storage as a count and its bytes.

    Of the numbers nothing is read but how many there are. The pickles are looked for in the first part of the file,
    and in a larger one only if they do not end there.
    """
    size = path.stat().st_size
    for limit in (PICKLE_START, PICKLE_LIMIT):
        with path.open("rb") as file:
            start = io.BytesIO(file.read(limit))
            try:
                return _legacy(path, start, file, size)
            except BadInput:
                if limit >= min(size, PICKLE_LIMIT):
                    raise
    raise AssertionError("the last round returns or raises")


def _legacy(path: Path, start: io.BytesIO, file: BinaryIO, size: int) -> PickleFile:
    if _load(path, start) != LEGACY_MAGIC:
        raise _bad(path, "this pickle is no torch model")
    version = _load(path, start)
    facts = _load(path, start)
    if version != 1001 or not (isinstance(facts, dict) and facts.get("little_endian") is True):
        raise _bad(path, "this is a torch file of a kind nobody writes any more", "protocol 1001, little-endian")
    plans, numbers = _flatten(path, _load(path, start))
    keys = _load(path, start)
    if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys):
        raise _bad(path, "the list of storages is damaged")
    storages = _storages(path, plans)
    places: dict[str, int] = {}
    position = start.tell()
    for key in keys:
        file.seek(position)
        count = int.from_bytes(file.read(8), "little")
        storage = storages.get(key)
        if storage is None:
            # a storage of something skipped: its element size is unknown, so nothing after it can be found
            break
        if count != storage.length:
            raise _bad(path, f"storage {key} is damaged", f"{storage.length} numbers", str(count))
        places[key] = position + 8
        position += 8 + count * storage.dtype.itemsize
    _check_places(path, storages, places, size)
    return PickleFile(path, plans, numbers, places)


def _load(path: Path, file: io.BytesIO) -> object:
    try:
        return load_one(file)
    except pickle.UnpicklingError as e:
        raise _bad(
            path, f"the file is not safe to open: {e}", "tensors only", fix="Do not use it; get a .safetensors."
        ) from None


def _flatten(path: Path, loaded: object) -> tuple[dict[str, TensorPlan], dict[str, float]]:
    """Tensors of the mapping that holds the model's, and the plain numbers beside them that mean something."""
    if isinstance(loaded, list) and loaded and all(isinstance(item, TensorPlan) for item in loaded):
        loaded = {str(i): item for i, item in enumerate(loaded)}  # cloneofsimo's trainer
    if not isinstance(loaded, dict):
        raise _bad(path, "the file holds no dictionary of tensors", got=type(loaded).__name__)
    nested = [loaded[n] for n in NESTS if isinstance(loaded.get(n), dict) and _plans(loaded[n])]
    chosen = nested[0] if nested else loaded
    plans = _plans(chosen)
    if not plans:
        raise _bad(path, "the file holds no tensors")
    return plans, _numbers(path, chosen)


def _numbers(path: Path, mapping: Mapping[object, object]) -> dict[str, float]:
    """Factors that were saved as plain numbers. One that is something else would be missed in silence."""
    found: dict[str, float] = {}
    for key, value in mapping.items():
        if not isinstance(key, str) or not key.endswith((".alpha", ".scale")):
            continue
        if value is None or isinstance(value, TensorPlan):
            continue
        if not isinstance(value, (int, float)) or abs(value) > LARGEST_NUMBER:
            raise _bad(path, f"{key} is no number that can be read", "a tensor or a plain number", type(value).__name__)
        found[key] = float(value)
    return found


def _plans(mapping: Mapping[object, object]) -> dict[str, TensorPlan]:
    return {k: v for k, v in mapping.items() if isinstance(k, str) and isinstance(v, TensorPlan)}


def _storages(path: Path, plans: Mapping[str, TensorPlan]) -> dict[str, Storage]:
    storages: dict[str, Storage] = {}
    for plan in plans.values():
        if storages.setdefault(plan.storage.key, plan.storage) != plan.storage:
            raise _bad(path, f"storage {plan.storage.key} is described in two ways")
    return storages


def _zip_places(
    path: Path, members: list[zipfile.ZipInfo], root: str, plans: Mapping[str, TensorPlan]
) -> dict[str, int]:
    size = path.stat().st_size
    storages = _storages(path, plans)
    places: dict[str, int] = {}
    with path.open("rb") as file:
        for info in members:
            storage = storages.get(info.filename.removeprefix(root + "data/"))
            if storage is None:
                continue
            if info.compress_type != zipfile.ZIP_STORED:
                raise _bad(path, f"{info.filename} is compressed; torch never writes that")
            if info.file_size != storage.length * storage.dtype.itemsize:
                raise _bad(
                    path,
                    f"{info.filename} has the wrong size",
                    str(storage.length * storage.dtype.itemsize),
                    str(info.file_size),
                )
            file.seek(info.header_offset)
            local = file.read(30)
            places[storage.key] = (
                info.header_offset
                + 30
                + int.from_bytes(local[26:28], "little")
                + int.from_bytes(local[28:30], "little")
            )
    _check_places(path, storages, places, size)
    return places


def _check_places(path: Path, storages: Mapping[str, Storage], places: Mapping[str, int], size: int) -> None:
    for key, storage in storages.items():
        if key not in places:
            raise _bad(path, f"storage {key} is missing", fix="The file is cut off; download it again.")
        end = places[key] + storage.length * storage.dtype.itemsize
        if end > size:
            raise _bad(path, "the file is cut off", f"{end} bytes", str(size), "Download it again.")


def _view(plan: TensorPlan, places: Mapping[str, int], content: Tensor) -> Tensor:
    begin = places[plan.storage.key]
    raw = content[begin : begin + plan.storage.length * plan.storage.dtype.itemsize]
    if begin % plan.dtype.itemsize:
        raw = raw.clone()
    flat = raw.view(plan.dtype)
    return flat.as_strided(plan.size, plan.stride, flat.storage_offset() + plan.offset)


def _check_byteorder(path: Path, archive: zipfile.ZipFile, root: str) -> None:
    try:
        order = archive.read(root + "byteorder") if archive.getinfo(root + "byteorder").file_size < 16 else b"?"
    except KeyError:
        return
    if order != b"little":
        raise _bad(path, "the numbers are stored in another byte order", "little", repr(order))


def _bad(path: Path, what: str, expected: str = "", got: str = "", fix: str = "") -> BadInput:
    return BadInput(Problem(os.fspath(path), what, expected, got, fix))
