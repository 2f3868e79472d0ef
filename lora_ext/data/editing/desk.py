"""The folders being edited: pages come and go, captions that are not saved stay."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from lora_ext.config import DataSetConfig
from lora_ext.data.editing.edit_set import EditSet
from lora_ext.data.editing.thumbnails import Thumbnails
from lora_ext.data.set_scan import picture_folder
from lora_ext.errors import BadInput, Problem

MOST = 4
"""Folders kept open; beyond it those without unsaved captions are let go, the oldest first."""


class Desk:
    """Every page that opens a folder gets the same `EditSet`."""

    def __init__(self, cache: Callable[[], Path]) -> None:
        """`cache`: the folder for thumbnails; asked for when the first picture folder is opened."""
        self._cache = cache
        self._lock = threading.Lock()
        self._sets: dict[Path, EditSet] = {}
        self._thumbnails: Thumbnails | None = None

    def open(self, config: DataSetConfig) -> EditSet:
        """The set of a folder, read anew with these settings. Raises `BadInput` (`images`, `caption_file`)."""
        root = picture_folder(config.images)
        with self._lock:
            self._thumbnails = self._thumbnails or Thumbnails(self._cache())
            known = self._sets.pop(root, None)
            if known:
                self._sets[root] = known
                known.reopen(config)
            else:
                known = self._sets[root] = EditSet(config, self._thumbnails)
            self._make_room()
            return known

    def get(self, key: str) -> EditSet:
        """An open set by its key. Raises `BadInput` when it is not open any more."""
        with self._lock:
            found = next((one for one in self._sets.values() if one.key == key), None)
        if found is None:
            raise BadInput(Problem("images", "the folder is not open any more", fix="Open it again."))
        return found

    def _make_room(self) -> None:
        *others, _newest = list(self._sets.items())
        spare = len(self._sets) - MOST
        for root, one in [(root, one) for root, one in others if not one.unsaved][: max(0, spare)]:
            one.close()
            del self._sets[root]
