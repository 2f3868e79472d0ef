"""The words that the host's BLIP speaks: bert-base-uncased's list, which transformers keeps in a cache of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import transformers.utils.hub
from huggingface_hub import constants
from transformers.utils import cached_file

from lora_ext.captioner import reach
from lora_ext.errors import BadInput, Problem

NAME, FILE = "bert-base-uncased", "vocab.txt"

OTHERS = ("tokenizer_config.json",)
"""Asked for too when it is loaded, and of use without a connection."""

MEGABYTES = 1


def source() -> str:
    """Where the list is fetched from."""
    return f"{os.environ.get('HF_ENDPOINT', 'https://huggingface.co').rstrip('/')}/{NAME}/resolve/main/{FILE}"


def place() -> Path:
    """The folder of the cache that holds it, or would."""
    cache = os.environ.get("TRANSFORMERS_CACHE") or constants.HF_HUB_CACHE
    return Path(cache) / f"models--{NAME}"


def present() -> bool:
    """Whether it is on disk; asks no server."""
    try:
        return cached_file(NAME, FILE, local_files_only=True) is not None
    except OSError:
        return False


def fetch() -> None:
    """Put it where the host looks for it. Raises `BadInput` (field `captioner`) soon when there is no connection."""
    fix = f"Or copy the folder {place().name} of another computer's cache into {place().parent} by hand."
    reach(source(), fix)
    try:
        cached_file(NAME, FILE)
        for name in OTHERS:
            cached_file(NAME, name)
    except OSError as e:
        reason = " ".join(str(e).split())[:200]
        raise BadInput(Problem("captioner", f"the file {FILE} of {NAME} cannot be fetched ({reason})", fix=fix)) from e


@contextmanager
def offline() -> Iterator[None]:
    """Inside, transformers takes what is on disk; else, without a connection, it tries for minutes."""
    hub = transformers.utils.hub
    before = hub._is_offline_mode
    hub._is_offline_mode = True
    try:
        yield
    finally:
        hub._is_offline_mode = before
