"""Step 4 behind its addresses: saved files, the sheet that compares them, and picking one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from lora_ext.api import picking, sheets
from lora_ext.api.saved_runs import ENDING, SavedFile, SavedRun, SavedRuns, view_of
from lora_ext.errors import BadInput, Problem
from lora_ext.hosts.glance import glance, survey
from lora_ext.layers import FAMILY_TITLES
from lora_ext.live import LiveModel
from lora_ext.training import JobBoard
from lora_ext.training.comparison import compare, plan
from lora_ext.ui.sheet_views import ColumnView, Occupied, PickedView, SavedRunsView, SheetView

BUSY = ("running", "pausing", "stopping")
"""States of a training in which it has the model."""
GOING = (*BUSY, "paused")

LISTS = ("files", "strengths", "prompts")

MOST_FILES = 100
"""Columns of a sheet."""

runs = SavedRuns()
"""What is known of files, for the process."""


class Choice:
    """`Choosing` over a folder, a job board and the process's one sheet."""

    def __init__(
        self,
        live: Callable[[], LiveModel],
        folder: Callable[[], Path],
        jobs: JobBoard,
        after_change: Callable[[Path], None],
        interrupted: Callable[[], bool],
    ) -> None:
        """`after_change` is called with a file that got another name; `interrupted`: the host's own button."""
        self._live, self._folder, self._jobs = live, folder, jobs
        self._after_change, self._interrupted = after_change, interrupted

    def saved(self) -> SavedRunsView:
        """Runs with files in the output folder."""
        folder = self._folder()
        return {"runs": [view_of(run, folder) for run in runs.look(folder)], "running": self._going()}

    def make(self, values: Mapping[str, object]) -> SheetView:
        """Begin a sheet. Raises `BadInput`; `Occupied` while a run trains or another sheet is being made."""
        if self._training():
            raise Occupied(Problem("", "a training is running", fix="Wait for its end, or pause it."))
        folder = self._folder()
        files, problems = self._files(values.get("files"), folder)
        own = {name: value for name, value in values.items() if name not in LISTS}
        try:
            wanted = plan(files or [folder], values.get("strengths"), values.get("prompts"), own)
        except BadInput as e:
            problems += e.problems
        if problems:
            raise BadInput(*problems)
        model = self._live()
        check_family(files, model)
        sheet = sheets.Sheet(wanted, self._columns(files, folder))
        sheets.easel.start(sheet, lambda: compare(model, wanted, self._interrupted), self._training)
        return sheet.view()

    def sheet(self) -> SheetView:
        """The sheet as far as it is."""
        return sheets.easel.view()

    def cancel(self) -> None:
        """Stop making it; what is made stays."""
        if sheets.easel.sheet is not None:
            sheets.easel.sheet.cancel()

    def picture(self, number: str, small: bool = False) -> bytes | None:
        """PNG (small: JPEG) of a picture by its id; None when it is not kept any more."""
        found = sheets.easel.sheet.picture(number) if sheets.easel.sheet is not None else None
        return None if found is None else found.small if small else found.png

    def whole(self) -> bytes | None:
        """The sheet as one labelled PNG; None before the first picture."""
        return sheets.easel.sheet.whole() if sheets.easel.sheet is not None else None

    def pick(self, values: Mapping[str, object]) -> PickedView:
        """Give a saved file its name, notes and picture. Raises `BadInput`."""
        with picking.one_at_a_time:
            return self._pick(values, self._folder())

    def _pick(self, values: Mapping[str, object], folder: Path) -> PickedView:
        run, file = self._saved_file(values.get("file"), folder)
        problems: list[Problem] = []
        picture: bytes | None = None
        stem, strength, trigger, description = file.stem, 1.0, "", ""
        try:
            stem, strength, trigger, description = picking.read_texts(values)
            picking.check_free(folder / file.name, stem)
        except BadInput as e:
            problems += e.problems
        try:
            picture = self._cell(values.get("cell"), file.name)
        except BadInput as e:
            problems += e.problems
        problems += self._others_problems(values.get("others", "keep"), run, stem)
        if problems:
            raise BadInput(*problems)
        wish = picking.Pick(folder / file.name, stem, strength, trigger, description, picture)
        others = picking.doomed(run, file, folder) if values.get("others") == "delete" else []
        picking.carry_out(wish, file.origin.family)
        if sheets.easel.sheet is not None:
            sheets.easel.sheet.rename(file.name, wish.target.name)
        trouble = self._see_to_state(run, file, stem, folder)
        gone, why = picking.delete([*(f.name for f in others), *self._left_states(run, others, folder)], folder)
        self._after_change(wish.target)
        prompt = f"{wish.tag} {trigger}".strip()
        names = [name.removesuffix(ENDING) for name in gone]
        return {"name": stem, "tag": wish.tag, "prompt": prompt, "deleted": names, "trouble": trouble or why}

    def _saved_file(self, name: object, folder: Path) -> tuple[SavedRun, SavedFile]:
        path = file_of(name if isinstance(name, str) else "", folder, "file")
        for run in runs.look(folder):
            for file in run.files:
                if file.name == path.name:
                    return run, file
        raise BadInput(
            Problem("file", "no run here has saved this file", "an id of the list of saved files", path.stem)
        )

    def _cell(self, number: object, file: str) -> bytes | None:
        """The picture for the card. Raises `BadInput` for one that does not show the file."""
        if number is None:
            return None
        sheet = sheets.easel.sheet
        found = sheet.shown(number) if sheet is not None and isinstance(number, str) else None
        if found is None:
            raise BadInput(Problem("cell", "there is no such picture on the sheet", fix="Choose another one."))
        if file not in found.files or not found.strength:
            what = "this picture was made without the file" if not found.strength else "this picture shows another file"
            raise BadInput(Problem("cell", what, fix="Choose a picture of its own column."))
        return found.picture.png

    def _others_problems(self, others: object, run: SavedRun, stem: str) -> Iterator[Problem]:
        going = self._going()
        if others not in ("keep", "delete"):
            yield Problem("others", "there is no such choice", "keep or delete", repr(others)[:40])
        elif others == "delete" and going == run.name:
            yield Problem("others", "the run is not over and may still need them", fix="Wait for its end, or stop it.")
        if going and stem == going:
            yield Problem("name", "the run that is going on will save its own file under this name", got=stem)
        if sheets.easel.sheet is not None and sheets.easel.sheet.running:
            what = "a sheet is still being made, and may need the file"
            yield Problem("file", what, fix="Wait for its end, or cancel it.")

    def _see_to_state(self, run: SavedRun, file: SavedFile, stem: str, folder: Path) -> str:
        """The state that a run left goes with its own file; gives why it did not."""
        if not (
            run.newest and file.origin.final and not file.picked and stem != file.stem and self._going() != run.name
        ):
            return ""
        try:
            picking.keep_state(run.name, stem, folder)
        except (BadInput, OSError) as e:
            return f"The saved state of {run.name} was left behind: {e}"
        return ""

    def _left_states(self, run: SavedRun, gone: Sequence[SavedFile], folder: Path) -> list[str]:
        """States of a run whose own file is deleted."""
        if not run.newest or not any(file.origin.final for file in gone):
            return []
        return [run.name + ending for ending in picking.STATES if (folder / (run.name + ending)).is_file()]

    def _training(self) -> bool:
        return self._jobs.snapshot()["state"] in BUSY

    def _going(self) -> str:
        now = self._jobs.snapshot()
        return now["name"] if now["state"] in GOING else ""

    def _files(self, given: object, folder: Path) -> tuple[list[Path], list[Problem]]:
        """The files that ids mean, and what is wrong with them."""
        ids = list(dict.fromkeys(one for one in given if isinstance(one, str))) if isinstance(given, list) else []
        if not ids or (isinstance(given, list) and not all(isinstance(one, str) for one in given)):
            return [], [Problem("files", "no saved file is chosen", "a list of ids of files")]
        if len(ids) > MOST_FILES:
            return [], [Problem("files", "too many files are chosen", f"at most {MOST_FILES}", str(len(ids)))]
        files: list[Path] = []
        problems: list[Problem] = []
        for one in ids:
            try:
                files.append(file_of(one, folder))
            except BadInput as e:
                problems += e.problems
        return files, problems

    def _columns(self, files: Sequence[Path], folder: Path) -> list[ColumnView]:
        """By file: those of ours with step and loss, others by name. Steps of two runs say which run."""
        known = {f["file"]: (run, f) for run in self.saved()["runs"] for f in run["files"]}
        several = len({known[path.name][0]["name"] for path in files if path.name in known}) > 1
        columns: list[ColumnView] = []
        for path in files:
            if path.name not in known:
                columns.append({"file": path.name, "label": path.stem, "step": None, "loss": None})
                continue
            file = known[path.name][1]
            label = path.stem if several else file["label"]
            columns.append({"file": path.name, "label": label, "step": file["step"], "loss": file["loss"]})
        return columns


def file_of(name: str, folder: Path, field: str = "files") -> Path:
    """The file that an id means. Raises `BadInput` for one that leaves the folder, or is not there."""
    plain = Path(name).name == name and not set(name) & set("/\\\0:") and name.endswith(ENDING)
    shown = name[:100]
    if not plain or name.startswith("."):
        raise BadInput(Problem(field, "this is no id of a saved file", "a name of the list of saved files", shown))
    try:
        there = (folder / name).is_file()
    except (OSError, ValueError):  # a name too long for the system, or with half a character in it
        there = False
    if not there:
        fix = "Choose again among the files that are there."
        raise BadInput(Problem(field, "this file is not there any more", got=shown, fix=fix))
    return folder / name


def check_family(files: Sequence[Path], model: LiveModel) -> None:
    """Raise `BadInput` for "files", naming each that was made for another kind of model than the loaded one."""
    loaded = model.architecture.family
    problems: list[Problem] = []
    for path in files:
        facts = glance(str(path))
        facts = facts if facts.complete or facts.damage else survey(str(path))
        if facts.damage:
            problems.append(Problem("files", f"the file {path.stem}: {facts.damage}"))
        elif facts.foreign or facts.family not in (None, loaded):
            here = FAMILY_TITLES[loaded]
            what = f"the file {path.stem} was made for {facts.made_for}, and the loaded model is {here}"
            problems.append(Problem("files", what, fix="Load a checkpoint of its kind first."))
    if problems:
        raise BadInput(*problems)
