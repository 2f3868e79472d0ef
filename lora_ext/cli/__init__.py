"""The command line: `python -m lora_ext train | generate | compare | data | convert | info | ui`.

Several processes may run one `train`, started by `torchrun` or `accelerate launch`.

Exit codes: 0 done, 2 bad input (one line per error on stderr), 130 stopped by Ctrl-C, 1 a fault of ours (traceback).
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Protocol, cast

from lora_ext.cli.flags import Parser, parse
from lora_ext.errors import BadInput, Problem

COMMANDS = {
    "train": "train a LoRA on a folder of pictures",
    "generate": "render one picture from a prompt with <lora:name:0.7> tags",
    "compare": "put saved LoRA files side by side: strengths, prompts and the same seeds on one sheet",
    "data": "look at the pictures and captions of a run before it starts",
    "convert": "turn another trainer's settings file into ours, or ours into sd-scripts'",
    "info": "say what is in a LoRA file",
    "ui": "open the training tab on its own, without a WebUI",
}


class Command(Protocol):
    """A module of this room that is a command."""

    def add(self, parser: Parser) -> None: ...
    def run(self, args: argparse.Namespace) -> int: ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (without the program's name) and return its exit code; never raises."""
    _hush()
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except BadInput as e:
        for problem in e.problems:
            print(f"error: {_one_line(str(problem))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except SystemExit as e:  # argparse, after --help
        return int(e.code or 0)
    except Exception:  # the edge: a fault of ours, shown whole
        traceback.print_exc()
        return 1


def _hush() -> None:
    """No hub is asked and no library speaks up, both of which bitsandbytes does as diffusers imports it: on processors
    with bfloat16 it looks for a kernel for 4-bit weights on a CPU, and misses the package for that."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0 if words else 2
    name = "ui" if words[0] == "--ui" else words[0]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        fix = f"Did you mean {near[0]}?" if near else f"One of {', '.join(COMMANDS)}."
        raise BadInput(Problem(name, "there is no such command", fix=fix))
    command = _command(name)
    parser = Parser(prog=f"python -m lora_ext {name}", description=COMMANDS[name], allow_abbrev=False)
    command.add(parser)
    return command.run(parse(parser, words[1:]))


def _command(name: str) -> Command:
    """Import only what the command needs: `info` does not wait for diffusers, and only `ui` needs gradio."""
    try:
        return cast(Command, importlib.import_module(f"lora_ext.cli.{name}"))
    except ModuleNotFoundError as e:
        if not e.name or e.name.split(".")[0] == "lora_ext":
            raise
        fix = "Run: pip install -r requirements/demo.txt -r requirements/ui.txt"
        raise BadInput(Problem(name, f"the package {e.name} is not installed", fix=fix)) from e


def _one_line(text: str) -> str:
    """The text without line ends and what could colour or move a terminal: names of files and settings are in it."""
    return "".join(c if c.isprintable() else " " for c in text)


def usage() -> str:
    """What there is to type."""
    lines = [f"  {name:<10}{title}" for name, title in COMMANDS.items()]
    return "\n".join(["python -m lora_ext COMMAND --help", "", *lines])
