"""A LoRA file as it is shown and clicked: name, picture, notes, and the model it is for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_ext.hosts import sidecar
from lora_ext.hosts.glance import Facts
from lora_ext.hosts.library import Library, View
from lora_ext.hosts.listing import Listed, Stamp
from lora_ext.hosts.name_index import normal
from lora_ext.hosts.sidecar import Sidecar, Sidecars
from lora_ext.layers import Family

FAMILIES: Mapping[str, Family] = {"SD1": "sd1", "SD2": "sd2", "SDXL": "sdxl"}
PICTURES = ("png", "jpg", "jpeg", "webp")
SHORT: Mapping[Family, str] = {family: short for short, family in FAMILIES.items()}


@dataclass(frozen=True)
class Card:
    """`name` is the card's own, unlike any other's; `tag` stands in `<lora:tag:1>`. Texts may hold anything.

    `version` is `SD1`, `SD2`, `SDXL`, or `Unknown`; for a file made for a model that is none of ours `foreign` says
    which. `preview` is the picture's path and time of change, in ns.
    """

    name: str
    tag: str
    file: Listed
    facts: Facts
    note: Sidecar
    version: str
    foreign: str
    description: str
    preview: tuple[str, int] | None

    @property
    def place(self) -> str:
        """LoRA folder's own name and the path below it: what searches by folder look through."""
        return normal(os.path.join(os.path.basename(self.file.folder), *self.file.inside.split("/")))

    def fits(self, loaded: Family | None, hide_unknown: bool = False) -> bool:
        """Whether the card is for the loaded model. What cannot be told fits, unless the user wants it hidden."""
        if loaded is None:
            return True
        if self.version in FAMILIES:
            return FAMILIES[self.version] == loaded
        return not self.foreign and not hide_unknown


class Cards:
    """The cards of a library, made anew when something has changed. Safe from any thread."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.sidecars = Sidecars()
        self._made: tuple[object, tuple[Card, ...]] | None = None

    def all(
        self, *, aliases: bool = True, pictures: Sequence[str] = ("png", "jpg", "jpeg", "webp")
    ) -> tuple[Card, ...]:
        """Every file's card, by path. `aliases`: tags call files as those call themselves, where that is clear.

        `pictures` are endings of previews.
        """
        view = self.library.view
        state = (view.number, self.library.memory.changes, aliases, tuple(pictures))
        made = self._made
        if made is None or made[0] != state:
            made = self._made = state, tuple(self._make(view, aliases, pictures))
        return made[1]

    def named(self, name: str) -> Card | None:
        """The card of this name."""
        return next((card for card in self.all() if card.name == name), None)

    def _make(self, view: View, aliases: bool, pictures: Sequence[str]) -> Iterator[Card]:
        beside = {folder: _by_lower_case(names) for folder, names in view.listing.beside.items()}
        for file in view.listing.files:
            facts = self.library.facts(file)
            folder, name = os.path.split(file.path)
            here = beside.get(folder, {})
            stem = name[: name.rindex(".")].lower()
            content = self._notes(folder, here.get(f"{stem}.json"))
            note = Sidecar.of(content)
            version, foreign = _version(note, facts)
            yield Card(
                name=view.index.shortest(file),
                tag=view.index.tag_name(file, facts.alias if aliases else ""),
                file=file,
                facts=facts,
                note=note,
                version=version,
                foreign=foreign,
                description=note.description if "description" in content else _told(folder, here, stem),
                preview=_preview(folder, here, stem, pictures),
            )

    def _notes(self, folder: str, found: tuple[str, Stamp] | None) -> Mapping[str, object]:
        if found is None:
            return {}
        return self.sidecars.get(os.path.join(folder, found[0]), found[1])


def notes_place(card: Card) -> Path:
    """Where the notes of a card are, or would be written."""
    return sidecar.place_of(Path(card.file.path))


Beside = Mapping[str, tuple[str, Stamp]]


def _by_lower_case(names: Mapping[str, Stamp]) -> Beside:
    return {name.lower(): (name, stamp) for name, stamp in names.items()}


def _version(note: Sidecar, facts: Facts) -> tuple[str, str]:
    """The user's word counts, then the file."""
    if note.version:
        return note.version, ""
    if facts.family:
        return SHORT[facts.family], ""
    return "Unknown", facts.foreign


def _told(folder: str, here: Beside, stem: str) -> str:
    for ending in (".txt", ".description.txt"):
        found = here.get(stem + ending)
        if found is not None:
            try:
                with open(os.path.join(folder, found[0]), encoding="utf8", errors="replace") as file:
                    return file.read(1 << 16)
            except OSError:
                continue
    return ""


def _preview(folder: str, here: Beside, stem: str, pictures: Sequence[str]) -> tuple[str, int] | None:
    """The newest of the pictures that may stand for a file: the one that was chosen last."""
    names = (f"{stem}{middle}.{ending}" for ending in pictures for middle in ("", ".preview"))
    found = [here[name] for name in names if name in here]
    if not found:
        return None
    name, stamp = max(found, key=lambda one: one[1].mtime_ns)
    return os.path.join(folder, name), stamp.mtime_ns
