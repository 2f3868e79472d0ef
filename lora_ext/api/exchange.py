"""Routes of settings as files: those of the trainers that we read in, and ours out, for us, sd-scripts or a shell."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from fastapi import Request
from fastapi.responses import JSONResponse

from lora_ext.api.body import Body, text
from lora_ext.api.door import Route, both_doors
from lora_ext.api.goal import changing
from lora_ext.api.reach import Reach
from lora_ext.config import TrainConfig, Value, flat, read, settings
from lora_ext.config_import import EXTENSIONS, Import, flattened, parse_file, read_foreign, to_sd_scripts
from lora_ext.errors import BadInput, Problem
from lora_ext.training.log import settings_toml
from lora_ext.ui import Service

OURS = "LoRA training"
"""What a settings file of our own is said to be from."""

EXPECTED = "a .toml, .json or .yaml file"

LARGEST = 4 * 2**20
"""Characters of an uploaded file; the largest known settings files have some 10,000."""


class ExchangeRoutes:
    """The handlers; bound to one service."""

    def __init__(self, service: Service, reach: Reach) -> None:
        self._service = service
        self._reach = reach

    def routes(self) -> Iterable[Route]:
        """Every address of the group, for programs and for the page."""
        yield from both_doors("POST", "/settings/import", self.take_in)
        yield from both_doors("POST", "/settings/export", self.give_out)

    async def take_in(self, request: Request) -> JSONResponse:
        """Read a settings file: `path`, or `name` and `text` of an uploaded one.

        The answer: `origin`, `settings` to take over, and `rows` that say what became of each key.
        """

        def work(body: Body) -> dict[str, object]:
            named = body.get("path")
            if isinstance(named, str) and named.strip():
                return self._taken(self._reach.check(Path(named.strip().strip("\"'")), "config"))
            return self._uploaded(text(body, "name"), text(body, "text"))

        return await changing(request, work)

    async def give_out(self, request: Request) -> JSONResponse:
        """Settings as text: `values`, and `form`: `toml`, `sd-scripts` or `command`. `files`, and what was left out."""

        def work(body: Body) -> dict[str, object]:
            values, form = body.get("values"), body.get("form")
            if not isinstance(values, Mapping) or form not in FORMS:
                raise BadInput(Problem("form", "there is no such form", f"one of {', '.join(FORMS)}", repr(form)[:80]))
            return FORMS[str(form)](as_given(values), self._checkpoint())

        return await changing(request, work)

    def _taken(self, path: Path) -> dict[str, object]:
        """A settings file, whoever wrote it, and what became of its keys. Raises `BadInput`."""
        if path.suffix.lower() not in EXTENSIONS:
            raise BadInput(Problem("config", "this is no settings file", EXPECTED, path.name))
        self._check_further(path)
        foreign = read_foreign(path)
        if foreign is None:
            return _own(path)
        known = settings(TrainConfig)
        kept = {name: value for name, value in foreign.settings.items() if name in known}
        return {"origin": foreign.origin, "settings": kept, "rows": list(_rows(foreign))}

    def _check_further(self, path: Path) -> None:
        """sd-scripts' files may name a second one, which is read too."""
        raw = parse_file(path) if path.suffix.lower() in (".toml", ".json") else None
        tables = [raw, *raw.values()] if isinstance(raw, dict) else []
        for table in tables:
            second = table.get("dataset_config") if isinstance(table, dict) else None
            if isinstance(second, str) and (Path(second).is_absolute() or ".." in second or second.startswith("~")):
                self._reach.check(path.parent / Path(second).expanduser(), "config")

    def _uploaded(self, name: str, content: str) -> dict[str, object]:
        """The same for a file that came as text; it is put where a path can name it, and is gone afterwards."""
        ending = Path(name).suffix.lower()
        if ending not in EXTENSIONS:
            raise BadInput(Problem("config", "this is no settings file", EXPECTED, name[-80:]))
        if len(content) > LARGEST:
            raise BadInput(Problem("config", "the file is too large for settings", f"at most {LARGEST} characters"))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"settings{ending}"
            try:
                path.write_text(content, encoding="utf-8")
                return self._taken(path)
            except UnicodeEncodeError:
                raise BadInput(Problem("config", "the file is not text")) from None
            except BadInput as e:
                raise BadInput(*(replace(p, what=p.what.replace(str(path), name[-80:])) for p in e.problems)) from None

    def _checkpoint(self) -> str:
        """File of the loaded checkpoint; empty when there is none."""
        try:
            return self._service.model()["file"]
        except BadInput:
            return ""


def _rows(found: Import) -> Iterable[dict[str, object]]:
    known = settings(TrainConfig)
    for entry in found.mapped:
        value = found.settings.get(entry.what)
        if entry.what in known:
            yield _row(entry.key, "used", entry.what, value)
        else:
            yield _row(entry.key, "meaningless", why="the checkpoint is the one that is loaded")
    for entry in found.assumed:
        if entry.key in known:
            yield _row("", "assumed", entry.key, entry.what)
    for entry in found.refused:
        yield _row(entry.key, "refused", why=entry.what)
    for entry in found.meaningless:
        yield _row(entry.key, "meaningless", why=entry.what)


def _row(key: str, became: str, name: str = "", value: object = None, *, why: str = "") -> dict[str, object]:
    """What became of a key; `name` is the setting that takes its `value`, if one does."""
    label = settings(TrainConfig)[name].label if name else ""
    return {"key": key, "became": became, "name": name, "label": label, "value": value, "why": why}


def _own(path: Path) -> dict[str, object]:
    """A file of ours; what is wrong in it does not cost the rest."""
    raw = parse_file(path)
    if not isinstance(raw, dict):
        raise BadInput(Problem("config", "the file holds no settings", "an object", type(raw).__name__))
    wrong: dict[str, str] = {}
    given = flattened({key: value for key, value in raw.items() if key != "model"}, TrainConfig)
    try:
        found = as_given(given)
    except BadInput as e:
        wrong = {p.field: str(p).removeprefix(f"{p.field}: ") for p in e.problems}
        found = as_given({name: value for name, value in given.items() if name not in wrong})
    rows = [
        _row(name, "refused", why=wrong[name]) if name in wrong
        else _row(name, "used", name, found[name])
        for name in given
    ]  # fmt: skip
    if "model" in raw or "checkpoint" in given:
        rows.append(_row("model", "meaningless", why="the checkpoint is the one that is loaded"))
    if not found:
        raise BadInput(Problem("config", "no key of the file is a setting that is known here", got=path.name))
    return {"origin": OURS, "settings": found, "rows": rows}


def as_given(values: Mapping[str, object]) -> dict[str, Value]:
    """Checked settings, only those that were given; folder and name may be empty. Raises `BadInput`."""
    known = settings(TrainConfig)
    needed = {name for name, s in known.items() if s.needed}
    empty = {name for name in needed if not str(values.get(name) or "").strip()}
    checked = flat(read(TrainConfig, {**values, **dict.fromkeys(empty, "?")}))
    return {name: "" if name in empty else checked[name] for name in known if name in values}


def _toml(values: Mapping[str, Value], checkpoint: str) -> dict[str, object]:
    known = settings(TrainConfig)
    empty = {name: "?" for name, s in known.items() if s.needed and not values.get(name)}
    text = settings_toml(read(TrainConfig, {**values, **empty}), checkpoint)
    for name in empty:
        text = text.replace(f'{name} = "?"\n', f'{name} = ""\n')
    return _files({"training.toml": text})


def _sd_scripts(values: Mapping[str, Value], checkpoint: str) -> dict[str, object]:
    made = to_sd_scripts({**values, "checkpoint": checkpoint} if checkpoint else values)
    known = settings(TrainConfig)
    left = [known[name].label for name in made.left_out if name in known]
    return {**_files({"config.toml": made.run, "dataset.toml": made.datasets}), "left_out": left}


def _command(values: Mapping[str, Value], checkpoint: str) -> dict[str, object]:
    """The command line that does the same: only what differs from the defaults."""
    words = ["python", "-m", "lora_ext", "train", "--checkpoint", checkpoint or "CHECKPOINT"]
    for name, s in settings(TrainConfig).items():
        value = values.get(name, s.default)
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words += [f"--{flag}" if value else f"--no-{flag}"] if value != s.default else []
        elif value != s.default or s.needed:
            words += [f"--{flag}", str(value) or flag.upper()]
    line = subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
    return _files({"": line})


def _files(texts: Mapping[str, str]) -> dict[str, object]:
    return {"files": [{"name": name, "text": text} for name, text in texts.items()], "left_out": []}


FORMS: Mapping[str, Callable[[Mapping[str, Value], str], dict[str, object]]] = {
    "toml": _toml,
    "sd-scripts": _sd_scripts,
    "command": _command,
}
