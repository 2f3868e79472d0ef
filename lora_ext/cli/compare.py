"""`compare`: one sheet of saved LoRA files, strengths and prompts, all with the same seeds."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from lora_ext.api.saved_runs import SavedRuns, view_of
from lora_ext.cli.flags import Parser, add_flags, values
from lora_ext.cli.outputs import check_all, check_picture_output
from lora_ext.config import CompareConfig, flat, read
from lora_ext.errors import BadInput, Problem
from lora_ext.formats import write_atomically
from lora_ext.hosts.given_path import given_path
from lora_ext.hosts.standalone import StandaloneModel, check_load
from lora_ext.training.comparison import Plan, compare, plan
from lora_ext.training.contact_sheet import contact_sheet


def add(parser: Parser) -> None:
    """Give the sub-command its flags."""
    parser.add_argument("files", nargs="*", metavar="FILE", help="LoRA files, a column each, in this order")
    parser.add_argument(
        "--prompt", dest="prompts", action="append", default=[], metavar="TEXT", help="a prompt; give one or more"
    )
    add_flags(parser, CompareConfig)


def run(args: argparse.Namespace) -> int:
    """Paint and write; returns the exit code."""
    config = read(CompareConfig, values(args, CompareConfig))
    files = [given_path("files", text) for text in args.files]
    check_all(
        *(partial(check_file, path) for path in files),
        partial(planned, files, args.prompts, config),
        partial(check_load, config.model),
        partial(check_picture_output, config.file.output, config.file.overwrite),
    )
    wanted = planned(files, args.prompts, config)
    model = StandaloneModel.load(config.model)
    for sentence in model.architecture.assumed:
        print(f"note: {sentence}", file=sys.stderr)
    path = given_path("output", config.file.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    size = config.sheet.width, config.sheet.height
    write_atomically(path, [contact_sheet(titles(files), wanted.rows, painted(model, wanted), size)])
    print(path)
    return 0


def painted(model: StandaloneModel, wanted: Plan) -> dict[tuple[int, int], bytes]:
    """The pictures as PNG by column and row, each told as it is done."""
    cells: dict[tuple[int, int], bytes] = {}
    for number, one in enumerate(compare(model, wanted), 1):
        file = png(one.image)
        cells |= {(column, one.row): file for column in one.columns}
        print(f"picture {number}/{wanted.total}", file=sys.stderr)
    return cells


def png(image: Image.Image) -> bytes:
    """The picture as a file."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def planned(files: Sequence[Path], prompts: Sequence[str], config: CompareConfig) -> Plan:
    """The sheet that the flags ask for. Raises `BadInput`."""
    numbers = [number_or_text(word) for word in config.file.strengths.split(",") if word.strip()]
    return plan(files, numbers, prompts, flat(config.sheet))


def number_or_text(word: str) -> float | str:
    """What is no number is left for the plan to complain of."""
    try:
        return float(word)
    except ValueError:
        return word.strip()


def check_file(path: Path) -> None:
    """Raise `BadInput` when there is no file."""
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "there is no such file"
        raise BadInput(Problem("files", what, "a LoRA file", str(path)))


def titles(files: Sequence[Path]) -> list[str]:
    """What stands above the columns: the files' names, and the losses that their runs' logs have."""
    runs, losses = SavedRuns(), dict[Path, float | None]()
    for folder in dict.fromkeys(path.parent for path in files):
        views = [view_of(run, folder) for run in runs.look(folder)]
        losses |= {folder / file["file"]: file["loss"] for view in views for file in view["files"]}
    return [path.stem + ("" if (loss := losses.get(path)) is None else f"\nloss {loss:.4g}") for path in files]
