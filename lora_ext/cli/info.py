"""`info`: what is in a LoRA file."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Mapping

from lora_ext.cli.flags import Parser
from lora_ext.errors import BadInput, Problem
from lora_ext.formats import FileInfo, read_info
from lora_ext.hosts.given_path import given_path

LONGEST = 100  # characters of a metadata value shown in the table


def add(parser: Parser) -> None:
    """Give the command its flags."""
    parser.add_argument("file", help="LoRA file (.safetensors, .pt)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Read the file's header and print it; returns the exit code."""
    path = given_path("file", args.file)
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "there is no such file"
        raise BadInput(Problem("file", what, "a LoRA file", str(path)))
    info = read_info(path)
    if args.json:
        print(json.dumps(dataclasses.asdict(info), indent=2))
    else:
        print("\n".join(f"{name + ':':<16}{printable(value)}" for name, value in rows(info)))
        print("\n".join(["metadata:", *metadata_lines(info.metadata)]))
    return 0


def rows(info: FileInfo) -> Iterator[tuple[str, str]]:
    """The table's rows: title and value."""
    yield "file", f"{info.name} ({info.size:,} bytes, {info.container})"
    yield "made for", info.made_for
    yield "layers", f"{info.layers} ({counted(info.kinds)})" if info.kinds else str(info.layers)
    yield "ranks", counted(info.ranks) or "none"
    if info.embeddings:
        yield "embeddings", ", ".join(info.embeddings)
    yield "tensors", f"{info.tensors} ({counted(info.dtypes)})"
    yield "model hash", info.model_hash or "none written"
    yield "legacy hash", info.legacy_hash or "none written"


def counted(counts: Mapping[str, int] | Mapping[int, int]) -> str:
    """`{"LoRA": 264}` -> `264 x LoRA`."""
    return ", ".join(f"{count} x {name}" for name, count in counts.items())


def metadata_lines(metadata: Mapping[str, str]) -> Iterator[str]:
    """One line per entry, long values cut."""
    if not metadata:
        yield "  none"
    for key in sorted(metadata):
        value = metadata[key]
        more = f"… ({len(value)} characters)" if len(value) > LONGEST else ""
        yield f"  {printable(key[:LONGEST])}: {printable(value[:LONGEST])}{more}"


def printable(text: str) -> str:
    """The text without what could move a terminal's cursor or colour it: a file's metadata is a stranger's words."""
    return "".join(c if c.isprintable() else " " for c in text)
