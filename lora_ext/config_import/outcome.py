"""What comes of a foreign settings file: our settings, and for each of its keys what became of it."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from lora_ext.config import CheckpointConfig, Setting, TrainConfig, Value, read, settings
from lora_ext.errors import BadInput


@dataclass(frozen=True)
class Everything:
    """All settings that a foreign file may say something about."""

    model: CheckpointConfig = field(default_factory=CheckpointConfig)
    run: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True)
class Entry:
    """A key of the foreign file (dotted where nested), and what became of it: the settings it set, or why not."""

    key: str
    what: str


@dataclass
class Import:
    """Flat settings for `config.read`, and every key of the file in one of three lists."""

    origin: str
    """Which trainer's file it is."""
    settings: dict[str, Value] = field(default_factory=dict)
    mapped: list[Entry] = field(default_factory=list)
    refused: list[Entry] = field(default_factory=list)
    """Wanted by the file and not done here."""
    meaningless: list[Entry] = field(default_factory=list)
    """Not set, switched off, or of no consequence here."""
    assumed: list[Entry] = field(default_factory=list)
    """Settings that no key says, but that the other trainer has by default; keys here are our settings."""

    def put(self, key: str, name: str, value: object) -> bool:
        """Set one of our settings because of a key; refused when there is no such setting or it takes no such value."""
        if name not in known():
            self.refuse(key, f"there is no setting {name} here yet")
            return False
        section = _sections()[known()[name].section]
        needed = {s.name: "x" for s in settings(section).values() if s.needed}
        try:
            found: object = read(section, {**needed, name: value})
        except BadInput as e:
            problem = e.problems[0]
            expected = f", expected {problem.expected}" if problem.expected else ""
            self.refuse(key, f"{problem.what}; got {value!r}{expected}")
            return False
        self.settings[name] = getattr(found, name)
        self.mapped.append(Entry(key, name))
        return True

    def refuse(self, key: str, why: str) -> None:
        """The key asks for what is not done here."""
        self.refused.append(Entry(key, why))

    def skip(self, key: str, why: str) -> None:
        """The key says nothing here."""
        self.meaningless.append(Entry(key, why))

    def assume(self, name: str, value: Value) -> None:
        """Set what the file's own trainer takes where the file says nothing."""
        self.settings[name] = value
        self.assumed.append(Entry(name, str(value)))

    def take(self, part: Import, settings_too: bool = False) -> None:
        """Add what another import found, each entry once."""
        for mine, theirs in (
            (self.mapped, part.mapped),
            (self.refused, part.refused),
            (self.meaningless, part.meaningless),
            (self.assumed, part.assumed),
        ):
            mine.extend(entry for entry in theirs if entry not in mine)
        if settings_too:
            self.settings |= part.settings

    def lines(self) -> Iterator[str]:
        """What a user should be told: what was refused, in full; the rest in numbers."""
        yield f"{self.origin}: {len(self.mapped)} keys taken over, {len(self.meaningless)} without meaning here"
        for entry in self.assumed:
            yield f"not in the file, so as its trainer has it: {entry.key} = {entry.what}"
        for entry in self.refused:
            yield f"not taken over: {entry.key}: {entry.what}"

    def keys(self) -> set[str]:
        """Every key that was dealt with."""
        return {entry.key for entry in (*self.mapped, *self.refused, *self.meaningless)}


@lru_cache(maxsize=1)
def known() -> dict[str, Setting]:
    """Every setting that may be set, by name."""
    return settings(Everything)


@lru_cache(maxsize=1)
def _sections() -> dict[str, type]:
    """The config class of each section, so that one value is tried without reading all the others."""
    return {**typing.get_type_hints(TrainConfig), "model": CheckpointConfig}
