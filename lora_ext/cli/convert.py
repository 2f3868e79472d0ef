"""`convert`: settings files of other trainers into ours, ours into sd-scripts'; every key is accounted for."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lora_ext.cli.flags import Parser, read_settings
from lora_ext.cli.train import TrainCommand
from lora_ext.config import Value, settings
from lora_ext.config.dataset_lines import toml_value
from lora_ext.config_import import Import, read_foreign, to_sd_scripts
from lora_ext.errors import BadInput, Problem
from lora_ext.hosts.given_path import given_path


def add(parser: Parser) -> None:
    """Give the sub-command its flags."""
    parser.add_argument("file", metavar="FILE", help="settings of kohya_ss, sd-scripts, lora-scripts, HCP, or ours")
    parser.add_argument("--output", metavar="FILE", help="our settings file to write (.toml)")
    parser.add_argument("--sd-scripts", metavar="FOLDER", help="write config.toml and dataset.toml for sd-scripts here")


def run(args: argparse.Namespace) -> int:
    """Tell what became of each key and write what was asked for; returns the exit code."""
    path = given_path("file", args.file)
    foreign = read_foreign(path) if path.suffix.lower() in (".json", ".toml", ".yaml", ".yml") else None
    if foreign:
        _tell(foreign)
        found = dict(foreign.settings)
    else:
        found = _own(path)
    if args.output:
        _write(given_path("output", args.output), "".join(f"{k} = {toml_value(v)}\n" for k, v in found.items()))
    if args.sd_scripts:
        export = to_sd_scripts(found)
        for name in export.left_out:
            print(f"note: sd-scripts has no words for {name}", file=sys.stderr)
        folder = given_path("sd-scripts", args.sd_scripts)
        _write(folder / "config.toml", export.run)
        _write(folder / "dataset.toml", export.datasets)
    return 0


def _own(path: Path) -> dict[str, Value]:
    given, known = read_settings(path, TrainCommand), settings(TrainCommand)
    wrong = [
        name for name, value in given.items() if name not in known or not isinstance(value, (bool, int, float, str))
    ]
    if wrong:
        raise BadInput(*(Problem(name, "there is no such setting") for name in wrong))
    return {name: value for name, value in given.items() if isinstance(value, (bool, int, float, str))}


def _tell(foreign: Import) -> None:
    print(f"from {foreign.origin}")
    for title, entries in (
        ("taken over", foreign.mapped),
        ("assumed", foreign.assumed),
        ("without meaning here", foreign.meaningless),
        ("not taken over", foreign.refused),
    ):
        print(f"{title}:" if entries else f"{title}: nothing")
        for entry in entries:
            print(f"  {entry.key}: {entry.what}")


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf8") as file:
            file.write(text)
    except FileExistsError:
        raise BadInput(Problem("output", "the file is already there", got=str(path), fix="Choose another.")) from None
    except OSError as e:
        raise BadInput(Problem("output", f"the file cannot be written ({e.strerror})", got=str(path))) from e
    print(path)
