"""The hashes that hosts show for a network file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

LEGACY_FROM, LEGACY_TO = 0x100000, 0x110000


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
