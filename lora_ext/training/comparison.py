"""Which saved file is the best: each of them in the live weights, for the same prompts and seeds, picture by picture.

The model is borrowed for one picture at a time, so that the host can work in between, and given back bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from lora_ext.adapters import Network
from lora_ext.config import SheetConfig, read
from lora_ext.errors import BadInput, Problem
from lora_ext.formats import NameTable, read_network
from lora_ext.live import LiveModel, RenderRequest
from lora_ext.patching import Strengths

MOST_PICTURES = 400
MOST_PIXELS = 1 << 28  # about a third of a gigabyte of PNGs
LONGEST_PROMPT = 4000  # characters
STRONGEST = 10.0
"""As in the settings of previews; beyond it no LoRA makes a picture."""
KEPT_BYTES = 1 << 30
"""Networks are kept between rows up to this size, and read again for each row beyond it."""
TAGS = ("<lora:", "<lyco:", "<hypernet:")


@dataclass(frozen=True)
class Row:
    """A row of the sheet."""

    prompt: str
    strength: float
    seed: int


@dataclass(frozen=True)
class Plan:
    """What is to be painted: every row for every file, a row without strength once for all of them."""

    files: tuple[Path, ...]
    rows: tuple[Row, ...]
    picture: SheetConfig

    @property
    def total(self) -> int:
        """Pictures to paint."""
        return sum(len(self.files) if row.strength else 1 for row in self.rows)


@dataclass(frozen=True)
class Painted:
    """One picture: of the row `row`, for the files `columns` (all of them when it shows the model alone)."""

    columns: tuple[int, ...]
    row: int
    image: Image.Image


Painting = Generator[Painted, None, None]


def plan(files: Sequence[Path], strengths: object, prompts: object, values: Mapping[str, object]) -> Plan:
    """The plan of a sheet: `strengths` a list of numbers, `prompts` a list of texts, `values` flat settings of
    `SheetConfig`.

    Raises `BadInput` with every problem, for the fields "files", "strengths", "prompts" and those settings.
    """
    problems: list[Problem] = []
    picture = SheetConfig()
    try:
        picture = read(SheetConfig, values)
        picture = replace(picture, negative=_whole(picture.negative))
    except BadInput as e:
        problems += e.problems
    if not files:
        problems.append(Problem("files", "no saved file is chosen", "one or more"))
    known, texts = _strengths(strengths, problems), _prompts(prompts, problems)
    if problems:
        raise BadInput(*problems)
    seeds = range(picture.seed, picture.seed + picture.pictures)
    rows = tuple(Row(prompt, strength, seed) for prompt in texts for seed in seeds for strength in known)
    made = Plan(tuple(files), rows, picture)
    _check_amount(made)
    return made


def _strengths(given: object, problems: list[Problem]) -> list[float]:
    if not isinstance(given, (list, tuple)) or not given:
        problems.append(Problem("strengths", "no strength is chosen", "a list of numbers such as 0, 0.7, 1"))
        return []
    found: dict[float, None] = {}
    for one in given:
        plain = isinstance(one, (int, float)) and not isinstance(one, bool)
        if not plain or not abs(one) <= STRONGEST:  # not a number is in no range
            what = "a strength cannot be used"
            problems.append(Problem("strengths", what, f"{-STRONGEST:g} to {STRONGEST:g}", repr(one)[:40]))
        else:
            found[float(one) + 0.0] = None  # no minus before 0
    return list(found)


def _prompts(given: object, problems: list[Problem]) -> list[str]:
    listed = given if isinstance(given, (list, tuple)) else []
    found = [_whole(one).strip() for one in listed if isinstance(one, str) and one.strip()]
    if not found or not all(isinstance(one, str) for one in listed):
        problems.append(Problem("prompts", "there is no prompt to compare with", "a list of texts"))
    for one in found:
        if any(tag in one.lower() for tag in TAGS):
            fix = "Leave the tag out: the sheet puts on each of the files by itself."
            problems.append(Problem("prompts", "a prompt of the sheet has no tags", got=one[:80], fix=fix))
        if len(one) > LONGEST_PROMPT:
            problems.append(Problem("prompts", "a prompt is too long", f"at most {LONGEST_PROMPT} letters", one[:40]))
    return list(dict.fromkeys(found))


def _whole(text: str) -> str:
    """Text that any file and any tokenizer can hold: JSON may have halves of characters."""
    return text.encode("utf8", "replace").decode("utf8")


def _check_amount(wanted: Plan) -> None:
    """A sheet is kept in memory."""
    size = wanted.picture.width * wanted.picture.height
    most = min(MOST_PICTURES, MOST_PIXELS // size)
    if wanted.total > most:
        what = f"this would be {wanted.total} pictures"
        fix = "Choose fewer files, strengths or prompts."
        raise BadInput(Problem("files", what, f"at most {most} of this size", fix=fix))


def compare(model: LiveModel, wanted: Plan, interrupted: Callable[[], bool] = lambda: False) -> Painting:
    """Paint row by row, so that all files can be compared early on. Closing the generator stops it.

    `interrupted` is asked after each picture, while the model is still borrowed: the host's own button may have
    broken the picture off, and it is left out and the sheet ends. Raises `BadInput` when a file is gone, was changed
    or does not fit the model, when the host has another checkpoint by now, and when the memory does not hold a picture
    of this size.
    """
    shelf, before = _Shelf(model, wanted.files), model.checkpoint
    everything = tuple(range(len(wanted.files)))
    for at, row in enumerate(wanted.rows):
        for columns in [(column,) for column in everything] if row.strength else [everything]:
            network = shelf.network(columns[0]) if row.strength else None
            with model.session():
                if (model.checkpoint.name, model.checkpoint.filename) != (before.name, before.filename):
                    raise _other_checkpoint(before.name, model.checkpoint.name)
                image = _paint(model, network, row, wanted.picture)
                if interrupted():
                    return
            yield Painted(columns, at, image)


def _paint(model: LiveModel, network: Network | None, row: Row, picture: SheetConfig) -> Image.Image:
    """One picture inside a session; afterwards every weight is as it was."""
    size = picture.width, picture.height
    request = RenderRequest(row.prompt, picture.negative, row.seed, picture.steps, picture.cfg, *size)
    try:
        with torch.no_grad():
            model.patcher.apply({network: Strengths(row.strength, row.strength)} if network is not None else {})
            return model.render(request)
    except torch.cuda.OutOfMemoryError:
        what, fix = "there is not enough memory for a picture of this size", "Choose a smaller width or height."
        raise BadInput(Problem("width", what, got=f"{size[0]}x{size[1]}", fix=fix)) from None
    finally:
        model.patcher.clear()


class _Shelf:
    """The networks of the files, each read when it is needed."""

    def __init__(self, model: LiveModel, files: Sequence[Path]) -> None:
        self._names, self._files = NameTable(model.table), files
        self._states = [_state(path) for path in files]
        self._kept: dict[int, Network] = {}
        self._bytes = 0

    def network(self, column: int) -> Network:
        """Read it, or give what was read. Raises `BadInput` for a file that is not what it was."""
        path = self._files[column]
        if _state(path) != self._states[column]:
            fix = "Begin a new sheet."
            raise BadInput(Problem("files", f"the file {path.stem} was changed while the sheet was made", fix=fix))
        if column in self._kept:
            return self._kept[column]
        try:
            network = read_network(path, self._names, path.stem).network
        except BadInput as e:
            told = (replace(p, field="files", what=f"the file {path.stem}: {p.what}") for p in e.problems)
            raise BadInput(*told) from e
        size = sum(p.numel() * p.element_size() for p in network.parameters())
        if self._bytes + size <= KEPT_BYTES:
            self._kept[column] = network
            self._bytes += size
        return network


def _state(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as e:
        why = "is not there any more" if isinstance(e, FileNotFoundError) else f"cannot be read: {e.strerror}"
        fix = "Choose again among the files that are there."
        raise BadInput(Problem("files", f"the file {path.stem} {why}", fix=fix)) from None
    return found.st_size, found.st_mtime_ns


def _other_checkpoint(before: str, now: str) -> BadInput:
    what = "another checkpoint was loaded while the sheet was made, so it ends here"
    return BadInput(Problem("", what, before, now, "Load the first one again, or begin a new sheet."))
