"""All that is known of one LoRA, for its info window and whoever asks over HTTP. Plain JSON, nothing escaped."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TypedDict

from lora_ext.errors import BadInput
from lora_ext.formats import FileInfo, read_info
from lora_ext.hosts.card import Card
from lora_ext.hosts.file_memory import FileMemory, Hashes
from lora_ext.hosts.glance import header_metadata
from lora_ext.hosts.sidecar import KEYS, Sidecar
from lora_ext.hosts.training_facts import settings_in_words, tag_counts, triggers

TAGS = 150
"""Most tags that are sent; a training on a whole collection has tens of thousands."""


class CardInfo(TypedDict):
    """`facts` and `training` are rows of label and value; `notes` has the keys of `Sidecar`'s fields."""

    name: str
    tag: str
    version: str
    foreign: str
    damage: str
    notes: dict[str, str | float]
    facts: list[tuple[str, str]]
    training: list[tuple[str, str]]
    tags: list[tuple[str, int]]
    triggers: list[str]


def card_info(card: Card, memory: FileMemory) -> CardInfo:
    """Read the file's header and tell. Never raises: damage is told too."""
    metadata = header_metadata(card.file.path)
    try:
        info: FileInfo | None = read_info(card.file.path)
        damage = card.facts.damage
    except (BadInput, OSError) as e:
        info, damage = None, str(e)
    return CardInfo(
        name=card.name,
        tag=card.tag,
        version=card.version,
        foreign=card.foreign,
        damage=damage,
        notes=_notes(card),
        facts=[row for row in _facts(card, info, memory) if row[1]],
        training=settings_in_words(metadata),
        tags=tag_counts(metadata)[:TAGS],
        triggers=triggers(metadata),
    )


def hash_rows(hashes: Hashes) -> list[tuple[str, str]]:
    """The hashes of a file read whole, by the names that sites call them."""
    return [
        ("SHA256", hashes.file),
        ("AutoV2", hashes.file[:10].upper()),
        ("AutoV3", hashes.data[:12].upper()),
    ]


def _notes(card: Card) -> dict[str, str | float]:
    notes: dict[str, str | float] = {name: getattr(card.note, name) for name in KEYS}
    notes["description"] = card.description
    return notes


def _facts(card: Card, info: FileInfo | None, memory: FileMemory) -> list[tuple[str, str]]:
    known = memory.hashes(card.file.path, card.file.stamp)
    rows = [
        ("File", card.place),
        ("Size", size_in_words(card.file.stamp.size)),
        ("Changed", datetime.fromtimestamp(card.file.stamp.mtime_ns / 1e9).strftime("%Y-%m-%d %H:%M")),
        ("Made for", card.facts.made_for or "unknown"),
    ]
    if info is not None:
        rows += [
            ("Layers", f"{info.layers} ({_counted(info.kinds)})" if info.kinds else str(info.layers)),
            ("Ranks", _ranks(info.ranks)),
            ("Numbers", ", ".join(sorted(info.dtypes))),
        ]
    rows.append(("Hash", (card.facts.hash or (known.data if known else ""))[:12]))
    return rows + (hash_rows(known) if known else [])


def _ranks(ranks: Mapping[int, int]) -> str:
    shown = sorted(ranks)
    return f"{shown[0]} to {shown[-1]}" if len(shown) > 3 else ", ".join(map(str, shown))


def _counted(counts: Mapping[str, int]) -> str:
    return next(iter(counts)) if len(counts) == 1 else ", ".join(f"{n} x {name}" for name, n in counts.items())


def size_in_words(size: float) -> str:
    """Bytes as people say them."""
    for unit in ("B", "KB", "MB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GB"


def changed_notes(card: Card, given: Mapping[str, object]) -> dict[str, object]:
    """What the user changed, by the sidecar's keys; `given` has the keys of `Sidecar`'s fields, some may be missing."""
    content = {KEYS[name]: value for name, value in given.items() if name in KEYS}
    shown = {KEYS[name]: value for name, value in _notes(card).items()}
    return Sidecar.of(shown).changes(Sidecar.of({**shown, **content}))
