"""The notes a user keeps beside a LoRA file: `<name>.json`, as A1111's builtin and other extensions use it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from lora_ext.errors import BadInput, Problem
from lora_ext.formats import write_atomically
from lora_ext.hosts.listing import Stamp

LARGEST = 16 << 20
USUAL = 1 << 14  # bytes read at once: room for more is asked for only where a file is longer
VERSIONS = ("Unknown", "SD1", "SD2", "SDXL")
"""What the builtin offers for `sd version`."""

Json = dict[str, object]

_writing = threading.Lock()


@dataclass(frozen=True)
class Sidecar:
    """What a card needs of the notes. `weight` 0 means that the user prefers none; `version` is empty when not set."""

    description: str = ""
    version: str = ""
    activation: str = ""
    weight: float = 0.0
    negative: str = ""
    notes: str = ""

    @classmethod
    def of(cls, content: Mapping[str, object]) -> Sidecar:
        """Read with patience: other tools write numbers as text, and null."""
        texts = {name: _text(content.get(key)) for name, key in KEYS.items() if name != "weight"}
        version = texts.pop("version")
        return cls(**texts, version=version if version in VERSIONS else "", weight=_number(content.get(KEYS["weight"])))

    def changes(self, other: Sidecar) -> Json:
        """What `other` says otherwise, by the file's keys."""
        pairs = ((field.name, getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return {KEYS[name]: new for name, old, new in pairs if new != old}


KEYS: Mapping[str, str] = {
    "description": "description",
    "version": "sd version",
    "activation": "activation text",
    "weight": "preferred weight",
    "negative": "negative text",
    "notes": "notes",
}
"""Our names to the file's."""


def place_of(path: Path) -> Path:
    """Where the notes of a LoRA file are."""
    return path.with_suffix(".json")


def read(place: str | Path) -> Json:
    """All that the file holds, in its order; nothing when there is none. Raises `BadInput` when it cannot be read."""
    try:
        with open(place, "rb", buffering=0) as file:
            raw = file.read(USUAL)
            while len(raw) >= USUAL and len(raw) <= LARGEST and (more := file.read(LARGEST + 1 - len(raw))):
                raw += more
    except FileNotFoundError:
        return {}
    except OSError as e:
        raise _bad(place, f"the notes cannot be read: {e.strerror or e}") from e
    if len(raw) > LARGEST:
        raise _bad(place, "the notes are too long", f"at most {LARGEST} bytes")
    if not raw.strip():
        return {}
    try:
        content = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as e:
        raise _bad(place, "the notes are no valid JSON", got=str(e)[:200]) from None
    if not isinstance(content, dict):
        raise _bad(place, "the notes are no JSON object", "{…}", type(content).__name__)
    return content


def write(place: Path, changes: Mapping[str, object]) -> None:
    """Change some keys and leave all others, whoever wrote them, as they are. Nothing to change, nothing written.

    Raises `BadInput` when the file there cannot be understood (it would be lost) or not be written.
    """
    with _writing:
        place = place.resolve()  # a link stays one
        content = read(place)
        if all(key in content and content[key] == value for key, value in changes.items()):
            return
        write_atomically(place, [_bytes({**content, **changes})])


class Sidecars:
    """Notes of many files, each read once until it changes. A damaged one counts as empty; `problems` tell of it."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Stamp, Json]] = {}
        self._problems: dict[str, Problem] = {}

    def get(self, place: str, stamp: Stamp | None) -> Json:
        """The content; `stamp` is that of the listing, None when the file is not there."""
        if stamp is None:
            self._known.pop(place, None)
            self._problems.pop(place, None)
            return {}
        known = self._known.get(place)
        if known is None or known[0] != stamp:
            self._problems.pop(place, None)
            try:
                content = read(place)
            except BadInput as e:
                content = {}
                self._problems[place] = e.problems[0]
            known = self._known[place] = stamp, content
        return known[1]

    def problems(self) -> Iterator[Problem]:
        """What is wrong with notes read so far."""
        return iter(list(self._problems.values()))


def _bytes(content: Json) -> bytes:
    text = json.dumps(content, indent=4, ensure_ascii=False)
    try:
        return text.encode("utf8")
    except UnicodeEncodeError:  # halves of characters, which only escapes can hold
        return json.dumps(content, indent=4).encode("ascii")


def _text(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None or isinstance(value, (dict, list)) else str(value)


def _number(value: object) -> float:
    try:
        number = float(str(value))
    except ValueError:
        return 0.0
    return number if abs(number) <= 100 else 0.0


def _bad(place: str | Path, what: str, expected: str = "", got: str = "") -> BadInput:
    return BadInput(Problem(str(place), what, expected, got, "Repair the file or move it away; it is left as it was."))
