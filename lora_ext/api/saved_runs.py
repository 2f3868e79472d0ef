"""What runs have saved: told from the files' own headers, which a renamed file still carries, and the runs' logs."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lora_ext.config import PreviewConfig, preview_wishes, read, settings
from lora_ext.errors import BadInput
from lora_ext.hosts.glance import header_metadata
from lora_ext.layers import Family
from lora_ext.ui.sheet_views import RunView, SavedFileView

ENDING = ".safetensors"
SIGN = b'{"__metadata__":{"lora_ext.settings":'
"""What a file of ours begins with, behind the length of its header. Others are not looked into any further."""
ON_THE_WAY = re.compile(r"-(?:step(\d{6,})|epoch(\d{4,}))$")
READERS = 8  # a disk answers several as fast as one
FAMILIES: Mapping[str, Family] = {"v1": "sd1", "v2": "sd2", "xl": "sdxl"}
"""By the third word of `modelspec.architecture`."""

Stamp = tuple[int, int]


@dataclass(frozen=True)
class Origin:
    """What a file's header tells of the run it comes from.

    `saved_as` is the name it was written under; `begun` (seconds since 1970) differs for a run and for what was resumed
    from it.
    """

    run: str
    saved_as: str
    family: Family
    step: int
    begun: float
    saved: float
    settings: Mapping[str, object]

    @property
    def final(self) -> bool:
        """Whether it is the run's own file, not one on the way."""
        return self.saved_as == self.run

    @property
    def resumed(self) -> bool:
        """Whether this part of the run went on from an earlier one."""
        return self.settings.get("resume") is True


@dataclass(frozen=True)
class SavedFile:
    """A file of ours in the output folder; `name` with its ending."""

    name: str
    bytes: int
    origin: Origin

    @property
    def stem(self) -> str:
        """As tags call it."""
        return self.name.removesuffix(ENDING)

    @property
    def picked(self) -> bool:
        """Whether it has got another name than the run gave it."""
        return self.stem != self.origin.saved_as


@dataclass(frozen=True)
class SavedRun:
    """The files of one run by step, its own one last. `newest`: it is the last run of its name, the log is its."""

    name: str
    files: tuple[SavedFile, ...]
    newest: bool


class SavedRuns:
    """The runs of a folder. A file's header is read once, until the file changes. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, tuple[Stamp, Origin | None]] = {}

    def look(self, folder: Path) -> list[SavedRun]:
        """The newest run first. Nothing of a folder that is not there."""
        with self._lock:
            entries = list(_entries(folder))
            new = [one for one in entries if self._known.get(one[0], ((0, 0), None))[0] != one[1]]
            with ThreadPoolExecutor(READERS) as pool:
                found = pool.map(lambda one: origin_of(one[0], one[1][1] / 1e9), new, chunksize=64)
                self._known |= {path: (stamp, origin) for (path, stamp), origin in zip(new, found, strict=True)}
            here = {path for path, _ in entries}
            self._known = {path: known for path, known in self._known.items() if path in here}
            ours = ((path, stamp, self._known[path][1]) for path, stamp in entries)
            files = [SavedFile(os.path.basename(p), s[0], origin) for p, s, origin in ours if origin is not None]
        return sorted(_runs(files), key=lambda run: -max(file.origin.saved for file in run.files))


def view_of(run: SavedRun, folder: Path) -> RunView:
    """A run for the page, with the losses that its log has."""
    losses = _losses(run, folder)
    last = max((file.origin for file in run.files), key=lambda origin: origin.saved)
    wishes = _previews(last.settings)
    day = time.strftime("%Y-%m-%d %H:%M", time.localtime(last.saved))
    return {
        "name": run.name if run.newest else f"{run.name} ({day})",
        "family": last.family,
        "trigger": _text(last.settings, "trigger_words") or _text(last.settings, "concept"),
        "prompts": list(dict.fromkeys(_whole(wish.preview_prompt) for wish in wishes)),
        "strength": wishes[0].preview_strength if wishes else None,
        "size": _size(wishes, last.settings),
        "files": [_file_view(file, losses) for file in run.files],
    }


def label_of(file: SavedFile) -> str:
    """What a file is called on the sheet: by its step or epoch, or by the name it was given."""
    if file.picked:
        return file.stem
    way = ON_THE_WAY.search(file.origin.saved_as)
    if file.origin.final or way is None:
        return "final"
    return f"step {int(way[1])}" if way[1] else f"epoch {int(way[2])}"


def origin_of(path: str, changed: float) -> Origin | None:
    """Where a file comes from; None for one that is not ours, or cannot be read. `changed` in seconds since 1970."""
    try:
        with open(path, "rb", buffering=0) as file:
            if not file.read(8 + len(SIGN)).endswith(SIGN):
                return None
        metadata = header_metadata(path)
        known = json.loads(metadata["lora_ext.settings"])
        saved_as = metadata["ss_output_name"]
        architecture = metadata.get("modelspec.architecture", "").partition("/")[0].split("-")
        family = FAMILIES.get(architecture[2] if len(architecture) > 2 else "")
        if not isinstance(known, dict) or family is None or _whole(saved_as) != saved_as:
            return None
        run = saved_as if known.get("output") == saved_as else ON_THE_WAY.sub("", saved_as)
        begun, saved = (_number(metadata.get(f"ss_training_{word}_at"), changed) for word in ("started", "finished"))
        return Origin(run, saved_as, family, int(_number(metadata.get("ss_steps"), 0)), begun, saved, known)
    except (OSError, ValueError, KeyError, RecursionError):
        return None


def _entries(folder: Path) -> Iterator[tuple[str, Stamp]]:
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if entry.name.endswith(ENDING) and not entry.name.startswith(".") and _whole(entry.name) == entry.name:
                    try:
                        stat = entry.stat()
                    except OSError:
                        continue  # gone meanwhile, or a link to nowhere
                    yield entry.path, (stat.st_size, stat.st_mtime_ns)
    except OSError:
        return


def _runs(files: Iterable[SavedFile]) -> Iterator[SavedRun]:
    by_name: dict[str, list[SavedFile]] = {}
    for file in files:
        by_name.setdefault(file.origin.run, []).append(file)
    for name, same in by_name.items():
        parts: dict[float, list[SavedFile]] = {}
        for file in sorted(same, key=lambda file: file.origin.begun):
            parts.setdefault(file.origin.begun, []).append(file)
        runs: list[list[SavedFile]] = []
        for part in parts.values():
            if runs and part[0].origin.resumed:
                runs[-1] += part
            else:
                runs.append([*part])
        for run in runs:
            ordered = sorted(run, key=lambda f: (f.origin.final, f.origin.step, f.origin.saved, f.name))
            yield SavedRun(name, tuple(ordered), run is runs[-1])


def _file_view(file: SavedFile, losses: Mapping[str, float]) -> SavedFileView:
    origin = file.origin
    return {
        "file": file.name,
        "label": label_of(file),
        "step": origin.step or None,
        "loss": losses.get(file.name),
        "bytes": file.bytes,
        "saved": origin.saved,
        "final": origin.final,
    }


def _losses(run: SavedRun, folder: Path) -> dict[str, float]:
    """By file. A resumed run takes the rows of what it left behind out of the log: such files have none."""
    if not run.newest or run.files[-1].origin.settings.get("log") is False:
        return {}
    logged = _logged(folder / f"{run.name}.log.csv")
    found = {}
    for file in run.files:
        later = [other.origin.step for other in run.files if other.origin.begun > file.origin.begun]
        if file.origin.step in logged and all(step > file.origin.step for step in later):
            found[file.name] = logged[file.origin.step]
    return found


def _logged(path: Path) -> dict[int, float]:
    """Losses on held-out pictures by step, as far as the log can be read."""
    found: dict[int, float] = {}
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            for row in csv.DictReader(file):
                step, loss = row.get("step") or "", _number(row.get("validation"), math.nan)
                if step.isascii() and step.isdecimal() and math.isfinite(loss):
                    found[int(step)] = loss
    except (OSError, csv.Error):
        return found
    return found


def _previews(known: Mapping[str, object]) -> Sequence[PreviewConfig]:
    """What the run's previews were to be."""
    own = {name: known[name] for name in settings(PreviewConfig) if name in known}
    try:
        return preview_wishes(read(PreviewConfig, own))
    except BadInput:
        return []


def _size(wishes: Sequence[PreviewConfig], known: Mapping[str, object]) -> list[int] | None:
    """Width and height in pixels of the run's first preview, else the side it was trained at; None if unknown."""
    if wishes:
        return [wishes[0].preview_width, wishes[0].preview_height]
    side = known.get("resolution")
    return [side, side] if isinstance(side, int) and not isinstance(side, bool) and side > 0 else None


def _text(known: Mapping[str, object], name: str) -> str:
    value = known.get(name)
    return _whole(value.strip()) if isinstance(value, str) else ""


def _whole(text: str) -> str:
    """Without what JSON can escape and a name on the disk can hold, but no answer: halves of characters."""
    return text.encode("utf8", "replace").decode("utf8")


def _number(text: object, otherwise: float) -> float:
    """A finite number of a text, or `otherwise`."""
    try:
        number = float(str(text))
    except ValueError:
        return otherwise
    return number if abs(number) < 1e15 else otherwise
