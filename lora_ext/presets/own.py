"""A preset as a file: written to be shared, and read as any bad input is read.

JSON: `{"lora_ext_preset": 1, "name": …, "note": …, "goal": …, "family": …, "settings": {…}}`. The number is the version
of the format. Settings of one run (folders, names, prompts) never go into it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lora_ext.config import TrainConfig, Value, flat, read, settings
from lora_ext.errors import BadInput, Problem
from lora_ext.layers import FAMILY_TITLES
from lora_ext.presets.case import GOALS

MARK = "lora_ext_preset"
VERSION = 1
LARGEST = 256 * 1024
"""Characters of a file; all settings take some 4,000."""

MIGRATIONS: dict[int, Callable[[dict[str, object]], dict[str, object]]] = {}
"""From a version to the next; each takes and gives the whole object."""

LONGEST = 80
_ALLOWED = re.compile(r"[\w(][\w .,()'+&-]*", re.UNICODE)
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Preset:
    """Settings under a name. `goal` and `family` may be empty: made for any."""

    name: str
    settings: Mapping[str, Value] = field(default_factory=dict)
    note: str = ""
    goal: str = ""
    family: str = ""


def check_name(name: str) -> None:
    """Raise `BadInput` (field `preset`) unless every system can hold a file of this name, inside its folder."""
    if not _ALLOWED.fullmatch(name):
        what, fix = "the name of a preset cannot be this", "Use letters, digits, spaces and - _ ( )."
    elif name.endswith((".", " ")):
        what, fix = "the name of a preset cannot end with a dot or space", ""
    elif _RESERVED.fullmatch(name):
        what, fix = "Windows keeps this name for itself", "Choose another name."
    elif len(name) > LONGEST or len(name.encode()) > 2 * LONGEST:
        what, fix = "the name of the preset is too long", f"At most {LONGEST} letters; fewer outside of English."
    else:
        return
    raise BadInput(Problem("preset", what, "a plain name such as my style", repr(name[: LONGEST + 1]), fix))


def keep(name: str, values: Mapping[str, object], *, note: str = "", goal: str = "", family: str = "") -> Preset:
    """A preset of the settings of a form, less those of the one run. Raises `BadInput` for names and values."""
    check_name(name)
    return Preset(name, _shared(values), note, goal, family)


def written(preset: Preset) -> str:
    """The preset as a file's text; `parsed(written(preset)) == preset`."""
    head: dict[str, object] = {MARK: VERSION, "name": preset.name}
    more = {"note": preset.note, "goal": preset.goal, "family": preset.family}
    head |= {key: value for key, value in more.items() if value}
    return json.dumps({**head, "settings": dict(preset.settings)}, indent=2, ensure_ascii=False) + "\n"


def parsed(text: str) -> Preset:
    """A preset from a file's text. Raises `BadInput` with all that is wrong (field `preset`, or the setting's)."""
    raw = _current(_object(text))
    words = {key: raw.get(key, "") for key in ("name", "note", "goal", "family")}
    wrong = [
        Problem("preset", f"{key} cannot be read", "text", repr(word)[:LONGEST])
        for key, word in words.items()
        if not isinstance(word, str)
    ]
    extra = sorted(raw.keys() - {MARK, "name", "note", "goal", "family", "settings"})
    wrong += [Problem("preset", f"{key[:LONGEST]!r} means nothing in a preset") for key in extra]
    given = raw.get("settings")
    if not isinstance(given, dict):
        wrong.append(Problem("preset", "the settings are missing", "an object of settings", type(given).__name__))
    if wrong:
        raise BadInput(*wrong)
    name, note, goal, family = map(str, words.values())
    _check_kind(goal, family)
    check_name(name)
    assert isinstance(given, dict)
    known = settings(TrainConfig)
    of_run = [key for key in given if key in known and known[key].of_run]
    if of_run:
        what = "this belongs to one run and cannot come with a preset"
        raise BadInput(*(Problem(key, what, got=repr(given[key])[:LONGEST]) for key in of_run))
    return Preset(name, _shared(given), note[:1000], goal, family)


def _object(text: str) -> dict[str, object]:
    if len(text) > LARGEST:
        raise BadInput(Problem("preset", "the file is too large for a preset", f"at most {LARGEST} characters"))
    try:
        raw = json.loads(text.removeprefix("\ufeff"))
    except RecursionError:
        raise BadInput(Problem("preset", "the file is nested too deeply to be a preset")) from None
    except ValueError as e:
        raise BadInput(Problem("preset", f"the file is not JSON ({e})")) from None
    if not isinstance(raw, dict) or MARK not in raw:
        fix = "Settings of other trainers are read by “Import settings”."
        raise BadInput(Problem("preset", "the file is no preset", f"an object with {MARK}", fix=fix))
    return raw


def _current(raw: dict[str, object]) -> dict[str, object]:
    """The object in today's format."""
    version = raw[MARK]
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise BadInput(Problem("preset", "the version of the format cannot be read", "a number", repr(version)[:40]))
    if version > VERSION:
        fix = "Update this extension, or ask for the preset in the older format."
        raise BadInput(Problem("preset", "a newer version made this preset", f"format {VERSION}", str(version), fix))
    for number in range(version, VERSION):
        raw = MIGRATIONS[number](raw)
    return raw


def _check_kind(goal: str, family: str) -> None:
    wrong = []
    if goal and goal not in GOALS:
        wrong.append(Problem("preset", "there is no such goal", f"one of {', '.join(GOALS)}", repr(goal[:LONGEST])))
    if family and family not in FAMILY_TITLES:
        expected = f"one of {', '.join(FAMILY_TITLES)}"
        wrong.append(Problem("preset", "there is no such kind of model", expected, repr(family[:LONGEST])))
    if wrong:
        raise BadInput(*wrong)


def _shared(values: Mapping[str, object]) -> dict[str, Value]:
    """Checked values, less those of one run."""
    known = settings(TrainConfig)
    of_run = {name for name, s in known.items() if s.of_run}
    stand_in = {name: "x" for name, s in known.items() if s.needed}
    given = {name: value for name, value in values.items() if name not in of_run}
    checked = flat(read(TrainConfig, {**stand_in, **given}))
    return {name: checked[name] for name in known if name in given}
