"""A cache folder: tensors by key, each entry checked when read. What is damaged or foreign is simply not there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lora_ext.config import DataConfig
from lora_ext.data.set_scan import picture_folder
from lora_ext.data.store_size import prune, touch
from lora_ext.errors import BadInput, Problem

FOLDER = ".lora-ext-cache"
"""In the picture folder; hidden, so that scans pass it by."""

_DIGEST = "sha256"
"""Name of the tensor that holds the entry's digest."""


class Store:
    """Entries under keys; a key is whatever text tells everything that the entry depends on."""

    def __init__(self, folder: Path, identity: str) -> None:
        """`identity`: of the model and the settings that entries were made with. Raises `OSError`."""
        self._folder = folder
        self._identity = identity
        self.problem = ""
        """Why nothing more is written: the disk is full, say."""
        folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def open(cls, config: DataConfig, identity: str) -> Store | None:
        """The cache folder of a run; None when it keeps everything in memory. Raises `BadInput` (`cache_folder`)."""
        if config.cache != "disk":
            return None
        text = config.cache_folder.strip().strip("\"'")
        try:
            folder = Path(text).expanduser() if text else picture_folder(config.images) / FOLDER
            return cls(folder, identity)
        except (OSError, ValueError, RuntimeError) as e:
            if isinstance(e, BadInput):
                raise
            said = getattr(e, "strerror", None) or str(e)
            fix = "Choose another folder, or keep prepared pictures in memory."
            raise BadInput(
                Problem("cache_folder", f"the folder cannot be used ({said})", got=repr(text), fix=fix)
            ) from e

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors of an entry; None when there is none that can be trusted."""
        try:
            tensors = load(self._path(key).read_bytes())
        except (OSError, SafetensorError, ValueError, KeyError, RuntimeError):
            return None
        digest = tensors.pop(_DIGEST, None)
        if digest is None or bytes(digest.tolist()) != self._digest(key, tensors):
            return None
        touch(self._path(key))
        return tensors

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> bool:
        """Write an entry whole or not at all; False when it cannot be, `problem` says why."""
        if self.problem:
            return False
        digest = torch.tensor(list(self._digest(key, tensors)), dtype=torch.uint8)
        data = save({name: t.contiguous() for name, t in tensors.items()} | {_DIGEST: digest})
        temporary = ""
        try:
            with tempfile.NamedTemporaryFile(dir=self._folder, suffix=".part", delete=False) as file:
                temporary = file.name
                file.write(data)
            os.replace(temporary, self._path(key))
        except OSError as e:
            self.problem = e.strerror or type(e).__name__
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            return False
        return True

    def leave(self, gigabytes: float) -> Iterator[str]:
        """Bring the folder back to its size (0: any), and say what the user should know, if anything."""
        if self.problem:
            yield (
                f"What is prepared can no longer be kept in {self._folder} ({self.problem}); the rest stays in memory "
                "for this run and is made anew in the next."
            )
        prune(self._folder, gigabytes * 1e9)

    def _path(self, key: str) -> Path:
        return self._folder / f"{hashlib.sha256(self._whole(key)).hexdigest()[:40]}.safetensors"

    def _whole(self, key: str) -> bytes:
        return f"{self._identity}\n{key}".encode("utf-8", "surrogatepass")

    def _digest(self, key: str, tensors: Mapping[str, Tensor]) -> bytes:
        """Over the key and every bit, so that neither a damaged nor a renamed file passes."""
        digest = hashlib.sha256(self._whole(key))
        for name in sorted(tensors):
            _add(digest, name, tensors[name])
        return digest.digest()


def fingerprint(tensors: Mapping[str, Tensor], *facts: object) -> str:
    """What tells a model (by the bits of its tensors) and settings (by their `repr`) from others."""
    digest = hashlib.sha256(repr(facts).encode())
    for name in sorted(tensors):
        _add(digest, name, tensors[name])
    return digest.hexdigest()


def content(path: Path) -> str:
    """What tells a file's contents from others'. Raises `OSError`."""
    digest = hashlib.blake2b(digest_size=20)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest.update(flat.view(torch.uint8).numpy().tobytes())
