"""`data`: what a run would be trained on, before it starts."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field

from lora_ext.cli.flags import Parser, add_flags, values
from lora_ext.cli.train import TrainCommand
from lora_ext.config import DataConfig, TextConfig, read, settings
from lora_ext.data import inspect, scan
from lora_ext.model import Tokenizer


@dataclass(frozen=True)
class DataCommand:
    """The settings of `train` that are about pictures and captions."""

    data: DataConfig = field(default_factory=DataConfig)
    text: TextConfig = field(default_factory=TextConfig)


def add(parser: Parser) -> None:
    """Give the sub-command its flags."""
    parser.add_argument("--config", metavar="FILE", help="settings file of a run, or another trainer's")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", help="one setting by name; may be given again")
    add_flags(parser, DataCommand)


def run(args: argparse.Namespace) -> int:
    """Scan, look closer and print; returns the exit code."""
    given, known = values(args, TrainCommand), settings(DataCommand)
    others = settings(TrainCommand).keys() - known.keys()
    config = read(DataCommand, {name: value for name, value in given.items() if name not in others})
    found = inspect(scan(config.data), Tokenizer().count, int(config.text.caption_tokens), config.data.decode_threads)
    for line in found.lines():
        print(line)
    return 0
