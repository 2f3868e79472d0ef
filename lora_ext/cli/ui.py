"""`ui`: the training tab on its own, at 127.0.0.1."""

from __future__ import annotations

import argparse
import socket
import sys
from pathlib import Path

from lora_ext.api import serve_standalone
from lora_ext.cli.flags import Parser, add_flags, values
from lora_ext.cli.outputs import check_all
from lora_ext.config import UiConfig, read
from lora_ext.errors import BadInput, Problem
from lora_ext.hosts.given_path import given_path
from lora_ext.hosts.standalone import StandaloneModel, check_load


def add(parser: Parser) -> None:
    """Give the command its flags."""
    add_flags(parser, UiConfig)


def run(args: argparse.Namespace) -> int:
    """Load the model and show the tab until Ctrl-C; returns the exit code."""
    config = read(UiConfig, values(args, UiConfig))
    folder = given_path("output_dir", config.serve.output_dir).resolve()
    check_all(
        lambda: check_load(config.model),
        lambda: make_folder(folder),
        lambda: check_port(config.serve.port),
    )
    print(f"loading {config.model.checkpoint}", file=sys.stderr)
    model = StandaloneModel.load(config.model)
    print(f"LoRAs are written to {folder}", file=sys.stderr)
    print(f"the tab: http://127.0.0.1:{config.serve.port} (Ctrl-C ends it)", file=sys.stderr)
    serve_standalone(lambda: model, lambda: folder, config.serve.port)
    return 0


def check_port(port: int) -> None:
    """Raise `BadInput` when something else listens there already."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            what = f"something already listens at 127.0.0.1:{port}"
            raise BadInput(Problem("port", what, fix="End it, or choose another with --port."))


def make_folder(folder: Path) -> None:
    """Make the folder for LoRAs. Raises `BadInput` when that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise BadInput(Problem("output_dir", f"{folder} cannot be made ({e.strerror})")) from None
