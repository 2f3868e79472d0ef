"""The LoRA library in the WebUI: its settings, its page, its routes."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from fastapi import FastAPI
from fastapi.params import Depends
from modules import paths, shared

from lora_ext.hosts.card import Cards
from lora_ext.hosts.file_memory import FileMemory
from lora_ext.hosts.library import Library
from lora_ext.hosts.network_cache import KEEP_BYTES
from lora_ext.hosts.pasted import restore_tags
from lora_ext.hosts.webui.card_routes import add_routes
from lora_ext.hosts.webui.cards import CardsPage, put_page
from lora_ext.hosts.webui.settings import lora_folders

KEEP = "lora_ext_keep_mib"
HASHING = "lora_ext_hash_files"
SECTION = ("lora_ext", "LoRA training")
KEPT_IN = ("cache", "lora-ext", "files.sqlite")
"""Below the WebUI's data folder."""


class Shelf:
    """Everything about the files that is joined to the host, as one thing to register."""

    def __init__(self) -> None:
        self.library = Library(
            [Path(os.path.abspath(folder)) for folder in lora_folders()],
            FileMemory(Path(paths.data_path, *KEPT_IN)),
            keep_bytes=_keep_bytes,
            busy=lambda: bool(shared.state.job),
            hashing=_hashing,
        )
        self.cards = Cards(self.library)

    def add_settings(self) -> None:
        """Declare settings and take the place of the builtin's page; call it from `on_ui_settings`."""
        mib = KEEP_BYTES >> 20
        label = "Memory for LoRAs that the prompt does not use at the moment"
        keep = shared.OptionInfo(mib, label, section=SECTION)
        shared.opts.add_option(KEEP, keep.info("in MiB; what is kept need not be read again when its tag comes back"))
        label = "Find out the hashes of LoRA files while the WebUI is idle"
        hashing = shared.OptionInfo(True, label, section=SECTION)
        shared.opts.add_option(HASHING, hashing.info("only of files that do not say theirs; each is read once, whole"))
        put_page(self.cards)

    def start(self, app: FastAPI, dependencies: Sequence[Depends]) -> None:
        """The app is there: routes, and a first look at the folders while nobody waits."""
        add_routes(app, CardsPage(self.cards), dependencies)
        threading.Thread(target=lambda: self.library.view, name="lora-ext first look", daemon=True).start()

    def pasted(self, text: str, parameters: dict[str, object]) -> None:
        """A picture's text was pasted: names that mean another file here, or none, are found by their hash."""
        restore_tags(self.library, parameters, aliases=getattr(shared.opts, "lora_preferred_name", "") != "Filename")

    def close(self) -> None:
        """Before the host unloads its scripts."""
        self.library.surveyor.end()


def _keep_bytes() -> int:
    return int(getattr(shared.opts, KEEP, KEEP_BYTES >> 20)) << 20


def _hashing() -> bool:
    return bool(getattr(shared.opts, HASHING, True)) and not shared.cmd_opts.no_hashing
