"""A saved file becomes a card: its own name, notes, picture. Nothing of anyone else is overwritten or deleted."""

from __future__ import annotations

import os
import threading
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lora_ext.api.moving import Moved, beside, move
from lora_ext.api.saved_runs import ENDING, SavedFile, SavedRun
from lora_ext.errors import BadInput, Problem
from lora_ext.hosts import sidecar
from lora_ext.hosts.card import SHORT
from lora_ext.hosts.listing import look
from lora_ext.hosts.lora_name import check_name
from lora_ext.layers import Family
from lora_ext.training.comparison import STRONGEST

UNSPELLABLE = ",="
"""Beside what no file may have: in a tag they end the name, or part what hosts keep of it."""
LONGEST_TEXT = 20_000  # characters
PREVIEW = ".preview.png"
STATES = (".state", ".state.previous")
"""What a run goes on from; without the run's own file it would be offered to go on."""

one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Pick:
    """What is wished of a saved file."""

    path: Path
    stem: str
    strength: float
    trigger: str
    description: str
    picture: bytes | None
    """PNG of the preview."""

    @property
    def target(self) -> Path:
        """Where the file is from now on."""
        return self.path.with_name(self.stem + ENDING)

    @property
    def tag(self) -> str:
        """As a prompt has it."""
        return f"<lora:{self.stem}:{self.strength:g}>"


def read_texts(values: Mapping[str, object]) -> tuple[str, float, str, str]:
    """Name, strength, trigger words and description of a wish. Raises `BadInput` with every problem."""
    problems: list[Problem] = []
    name, trigger, description = (_text(values, field, problems) for field in ("name", "trigger", "description"))
    stem = unicodedata.normalize("NFC", name).strip().removesuffix(ENDING)
    problems += _name_problems(stem)
    strength = values.get("strength", 1.0)
    if isinstance(strength, bool) or not isinstance(strength, (int, float)) or not 0 < abs(strength) <= STRONGEST:
        expected = f"{-STRONGEST:g} to {STRONGEST:g}, and not 0"
        problems.append(Problem("strength", "the strength cannot be used", expected, repr(strength)[:40]))
        strength = 1.0
    if problems:
        raise BadInput(*problems)
    return stem, float(strength), " ".join(trigger.split()), description.strip()


def _text(values: Mapping[str, object], field: str, problems: list[Problem]) -> str:
    value = values.get(field, "")
    if not isinstance(value, str):
        problems.append(Problem(field, f"the {field} cannot be read", "a text"))
        return ""
    if len(value) > LONGEST_TEXT:
        problems.append(Problem(field, f"the {field} is too long", f"at most {LONGEST_TEXT} letters"))
    return value[:LONGEST_TEXT].encode("utf8", "replace").decode("utf8") if field != "name" else value


def _name_problems(stem: str) -> list[Problem]:
    """What is wrong with a name: as a file's, or as one that a tag can spell."""
    try:
        check_name(stem)
    except BadInput as e:
        return [replace(problem, field="name") for problem in e.problems]
    bad = [character for character in UNSPELLABLE if character in stem]
    hidden = [f"U+{ord(character):04X}" for character in stem if not character.isprintable()]
    if bad:
        what, fix = "a <lora:…> tag cannot hold this name", f"Leave out {' '.join(bad)}"
    elif hidden:
        what, fix = "the name holds characters that nobody sees", f"Leave out {' '.join(hidden)}."
    else:
        return []
    return [Problem("name", what, "a plain name such as my cat", repr(stem), fix)]


def check_free(path: Path, stem: str) -> None:
    """Raise `BadInput` for "name" when a LoRA of that name, or what would be its notes, is there already."""
    wanted = _alike(stem)
    for file in look([path.parent]).files:
        if Path(file.path) != path and _alike(file.stem.rpartition("/")[2]) == wanted:
            what = "there is a LoRA of this name already"
            raise BadInput(Problem("name", what, got=file.inside, fix="Choose another name."))
    if _alike(path.stem) == wanted:
        return
    target = path.with_name(stem + ENDING)
    others = [*beside(target), *(path.with_name(stem + end) for end in STATES)]
    found = next((other for other in others if os.path.lexists(other)), None)
    if found is not None:
        fix = "Choose another name, or move that file away."
        raise BadInput(Problem("name", "a file of this name is there already", got=found.name, fix=fix))


def _alike(name: str) -> str:
    """The same for names that some system takes for one."""
    return unicodedata.normalize("NFC", name).casefold()


def carry_out(pick: Pick, family: Family) -> None:
    """Notes and picture first, under the new name, then the file: it is never without them.

    Raises `BadInput`; then everything is as it was.
    """
    target, made = pick.target, Moved()
    notes = sidecar.place_of(target)
    try:
        if target != pick.path:
            for old in beside(pick.path):
                made.copy(old, target.with_name(pick.stem + old.name[len(pick.path.stem) :]))
        if pick.picture is not None:
            made.write(target.with_name(pick.stem + PREVIEW), pick.picture)
        made.keep(notes)
        sidecar.write(notes, _notes(pick, sidecar.read(notes), family))
        if target != pick.path:
            move(pick.path, target)
    except OSError as e:
        made.undo()
        raise BadInput(Problem("name", "the file could not be renamed", got=e.strerror or str(e))) from e
    except BaseException:
        made.undo()
        raise
    made.remove_old()


def _notes(pick: Pick, before: Mapping[str, object], family: Family) -> dict[str, object]:
    """What the notes shall say; an empty description leaves the one there is."""
    own: dict[str, object] = {"activation text": pick.trigger, "preferred weight": pick.strength}
    if pick.description or "description" not in before:
        own["description"] = pick.description
    if before.get("sd version") in (None, "", "Unknown"):
        own["sd version"] = SHORT[family]
    return own


def keep_state(run: str, stem: str, folder: Path) -> None:
    """The state of a run goes with its own file: alone it would look like a run that was broken off."""
    for ending in STATES:
        state = folder / (run + ending)
        if state.is_file():
            move(state, folder / (stem + ending))


def doomed(run: SavedRun, kept: SavedFile, folder: Path) -> list[SavedFile]:
    """What else a run saved. What was picked, or has notes or a picture, is somebody's and stays."""
    others = [file for file in run.files if file.name != kept.name and not file.picked]
    return [file for file in others if not any(one.exists() for one in beside(folder / file.name))]


def delete(names: Sequence[str], folder: Path) -> tuple[list[str], str]:
    """Delete files of a folder; gives those that are gone, and why another is not."""
    gone: list[str] = []
    trouble = ""
    for name in names:
        try:
            (folder / name).unlink()
        except FileNotFoundError:
            continue
        except OSError as e:
            trouble = f"{name} could not be deleted: {e.strerror or e}"
        else:
            gone.append(name)
    return gone, trouble
