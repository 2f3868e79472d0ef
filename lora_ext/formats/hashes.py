"""The hashes that hosts show for a network file, and the one that tells networks apart in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from lora_ext.layers import LayerName

LEGACY_FROM, LEGACY_TO = 0x100000, 0x110000
EXACT = frozenset({torch.float32, torch.float16, torch.bfloat16})
"""Dtypes whose numbers Python shows with all their bits."""


def network_hashes(header: bytes, data: Iterable[bytes]) -> dict[str, str]:
    """`sshs_model_hash` and, for files beyond 1 MiB, `sshs_legacy_hash`, as kohya and A1111 compute them.

    `header` is the header as it would be with `ss_*` metadata alone; the model hash covers the data only, the legacy
    hash 64 KiB of the whole file from 1 MiB on. A shorter file has no legacy hash: kohya's would be that of no bytes
    at all (`e3b0c442`), the same for every such file.
    """
    whole, legacy = hashlib.sha256(), hashlib.sha256()
    position = len(header)
    legacy.update(header[LEGACY_FROM:LEGACY_TO])
    for piece in data:
        whole.update(piece)
        legacy.update(piece[max(0, LEGACY_FROM - position) : max(0, LEGACY_TO - position)])
        position += len(piece)
    hashes = {"sshs_model_hash": whole.hexdigest()}
    if position > LEGACY_FROM:
        hashes["sshs_legacy_hash"] = legacy.hexdigest()[:8]
    return hashes


def content_identity(layers: Mapping[LayerName, Mapping[str, Tensor]]) -> str:
    """64 hex digits over names and bits of what is applied: the same for a renamed copy or one with other metadata.

    Sums of large tensors stand for them, as nothing here has to withstand a forger: it only orders networks.
    """
    digest = hashlib.sha256()
    named = {str(name): tensors for name, tensors in layers.items()}
    for name in sorted(named):
        told = [f"{own} {t.dtype} {tuple(t.shape)} {_sum(t)}" for own, t in sorted(named[name].items())]
        digest.update(f"{name} {told}".encode())
    return digest.hexdigest()


def _sum(tensor: Tensor) -> str:
    """The bits as 64-bit numbers, added up without regard to overflow, which is as fast as memory; and what is left."""
    if tensor.dim() == 0 and tensor.dtype in EXACT:  # one for each layer
        return repr(tensor.item())
    content = tensor.detach().reshape(-1).view(torch.uint8).numpy()
    whole = len(content) // 8 * 8
    rest = content[whole:].tobytes().hex() if whole < len(content) else ""
    return f"{np.add.reduce(content[:whole].view(np.int64))}{rest}"
