"""What is written about the first pictures of a folder, none of which is opened: what a preview may well show."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from lora_ext.config import DataConfig
from lora_ext.data.caption_source import CaptionSource
from lora_ext.data.folder import Walk
from lora_ext.data.notices import Notices
from lora_ext.data.sets import data_sets
from lora_ext.errors import BadInput

LOOKED_AT = 200
"""Pictures; whoever wrote the same about all of these did about the others too."""


def first_captions(config: DataConfig, most: int) -> list[str]:
    """Up to `most` different captions as they are trained, with nothing left to chance, in the pictures' order.

    Fewer, or none, where folders and captions cannot be read: whoever reads them for a run tells what is wrong.
    """
    found: dict[str, None] = {}
    try:
        for caption in islice(_captions(config), LOOKED_AT):
            found[caption] = None
            if len(found) == most:
                break
    except (BadInput, OSError, RuntimeError, ValueError):
        pass  # what was found before it is right
    return [*found]


def _captions(config: DataConfig) -> Iterator[str]:
    for one in data_sets(config):
        if one.regularisation:
            continue
        source = CaptionSource(one, Notices())
        for folder in Walk(Path(one.images).expanduser()).folders():
            if folder.repeats == 0:
                continue
            source.enter(folder)
            for path in folder.pictures():
                if caption := " ".join(source.words(path.name, path, folder.concept).plain().split()):
                    yield caption
