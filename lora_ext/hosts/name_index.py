"""Which file a name in a prompt means, and how a file is best named."""

from __future__ import annotations

import difflib
import re
import unicodedata
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lora_ext.errors import Problem
from lora_ext.hosts.glance import Facts
from lora_ext.hosts.listing import Listed

UNWRITABLE = re.compile(r"[<>:\x00-\x1f\ufffd]|^\s|\s$")
"""What cannot stand in `<lora:name:1>` and be found again."""
UNTAGGABLE = re.compile(r"[<>\x00-\x1f]|^\s+|\s+$")
"""What a file's own name loses in a tag; see `taggable`."""
TAKEN = {"", "none", "addams"}
"""Aliases that A1111's builtin refuses."""


class NameIndex:
    """Names of one look at the folders. Nothing here asks the disk.

    A name is a file's stem (`cat`), its path below its folder without ending (`animals/cat`) or with it, the whole
    path, or the name it calls itself; each as it is and as `taggable` spells it. All are only looked up: `../` leads
    nowhere.
    """

    def __init__(self, files: Iterable[Listed], facts: Mapping[str, Facts]) -> None:
        self._names: dict[str, list[Listed]] = {}
        self._aliases: dict[str, list[Listed]] = {}
        for file in files:
            for name in _names_of(file):
                self._names.setdefault(name, []).append(file)
            alias = facts[file.path].alias if file.path in facts else ""
            if alias:
                self._aliases.setdefault(normal(alias), []).append(file)

    def look(self, name: str) -> list[Listed]:
        """Files of this name. A path, `cat` of the top folder too, is more exact than a stem that may be anywhere."""
        wanted = normal(name.replace("\\", "/"))
        return self._names.get(wanted) or self._names.get(f"*/{wanted}") or []

    def by_alias(self, name: str) -> list[Listed]:
        """Files that call themselves so."""
        return self._aliases.get(normal(name), []) if name else []

    def shortest(self, file: Listed) -> str:
        """The shortest name that means this file alone; with two folders that hold the same path, the path itself."""
        stem = normal(file.stem)
        for name in (stem.rpartition("/")[2], stem, normal(file.inside)):
            if self.look(name) == [file]:
                return name
        return normal(file.path.replace("\\", "/"))

    def tag_name(self, file: Listed, alias: str) -> str:
        """What a prompt calls the file: `alias` (may be empty) where that means this file alone, else `shortest`."""
        if alias and self._means(alias, file) and not UNWRITABLE.search(alias) and alias.lower() not in TAKEN:
            return alias
        return taggable(self.shortest(file))

    def unknown(self, name: str, folders: Sequence[Path]) -> Problem:
        """There is no such name; one that is near."""
        if not folders:
            return Problem(name, "there is no LoRA of this name, as no LoRA folder is known")
        stems = (key.removeprefix("*/") for key in self._names if key.startswith("*/"))
        known = {stem.casefold(): stem for stem in stems}
        near = difflib.get_close_matches(normal(name).casefold(), known, n=1)
        places = ", ".join(str(folder.absolute()) for folder in folders)
        fix = f"Did you mean {known[near[0]]}?" if near else f"Looked in {places}."
        return Problem(name, "there is no LoRA of this name", fix=fix)

    def ambiguous(self, name: str, found: Sequence[Listed]) -> Problem:
        """More than one file has this name; how to say which."""
        ways = ", ".join(sorted(taggable(self.shortest(file)) for file in found))
        return Problem(name, "more than one LoRA has this name", fix=f"Write one of: {ways}.")

    def _means(self, alias: str, file: Listed) -> bool:
        return (self.look(alias) or self.by_alias(alias)) == [file]


def normal(name: str) -> str:
    """One spelling of accents: macOS writes them apart, keyboards together. Bytes that are no text become U+FFFD."""
    if not name.isascii():
        name = name.encode("utf8", "surrogateescape").decode("utf8", "replace")
    return unicodedata.normalize("NFC", name)


def taggable(name: str) -> str:
    """A name as `<lora:name:1>` can hold it: `a>b` is `a%3Eb`, as in web addresses; other names are what they are."""
    return UNTAGGABLE.sub(lambda found: urllib.parse.quote(found[0], safe=""), name)


def _names_of(file: Listed) -> set[str]:
    stem = normal(file.stem)
    names = {normal(file.inside), stem, normal(file.path.replace("\\", "/"))}
    last = stem.rpartition("/")[2]
    return names | {taggable(name) for name in names} | {f"*/{last}", f"*/{taggable(last)}"}
