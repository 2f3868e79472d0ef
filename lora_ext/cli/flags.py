"""Flags, `--set` and settings files: three ways to give the settings of `config.py`, one way to read them."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from lora_ext.config import Setting, number, settings
from lora_ext.config_import import EXTENSIONS, flattened, parse_file, read_foreign
from lora_ext.errors import BadInput, Problem
from lora_ext.hosts.given_path import given_path


class Parser(argparse.ArgumentParser):
    """Says what is wrong as every other bad input is said: `BadInput`, not usage text and exit."""

    def error(self, message: str) -> NoReturn:
        """Raise `BadInput`; argparse calls this."""
        what, _, fix = message.partition("\n")
        raise BadInput(Problem("command line", what, fix=fix or f"See `{self.prog} --help`."))


def add_flags(parser: argparse.ArgumentParser, config: type) -> None:
    """One flag per setting of a config class, grouped by section; values stay text until `config.read`."""
    groups: dict[str, argparse._ArgumentGroup] = {}
    for s in settings(config).values():
        if s.section not in groups:
            groups[s.section] = parser.add_argument_group(s.section)
        if s.type is bool:
            groups[s.section].add_argument(
                flag(s), dest=s.name, default=None, action=argparse.BooleanOptionalAction, help=help_text(s)
            )
        else:
            groups[s.section].add_argument(
                flag(s), dest=s.name, default=None, metavar=_placeholder(s), help=help_text(s)
            )


def flag(s: Setting) -> str:
    """`learning_rate` -> `--learning-rate`."""
    return "--" + s.name.replace("_", "-")


def help_text(s: Setting) -> str:
    """Help, then range, choices and default as far as there are any."""
    facts = [_range(s), f"one of {', '.join(s.choices)}" if s.choices else ""]
    if s.needed:
        facts.append("needed")
    elif s.default != "":
        facts.append(f"default {_shown(s.default)}")
    known = "; ".join(filter(None, facts))
    text = " ".join(filter(None, [s.help or s.label + ".", known and f"({known})"]))
    return text.replace("%", "%%")


def parse(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """Parse; an unknown flag raises `BadInput` naming the one that was probably meant."""
    args, rest = parser.parse_known_args(argv)
    if rest:
        known = [text for action in parser._actions for text in action.option_strings]
        flags = [word for word in rest if word.startswith("-")] or rest  # without the values of unknown flags
        raise BadInput(*(_unknown(word, known) for word in flags))
    return args


def values(args: argparse.Namespace, config: type) -> dict[str, object]:
    """The settings given, flat: a settings file, overridden by `--set`, overridden by flags. Raises `BadInput`."""
    out: dict[str, object] = {}
    if getattr(args, "config", None):
        out.update(read_settings(given_path("config", args.config), config))
    out.update(_pairs(getattr(args, "set", None) or []))
    given = vars(args)
    out.update({name: given[name] for name in settings(config) if given.get(name) is not None})
    return out


def read_settings(path: Path, config: type) -> dict[str, object]:
    """A settings file, its keys flat (`rank = 16`) or by section (`[network]`), or one of another trainer.

    What becomes of another trainer's settings is told on stderr. Raises `BadInput`.
    """
    if path.suffix.lower() not in EXTENSIONS:
        expected = "a .json or .toml file, or another trainer's .yaml"
        raise BadInput(Problem("config", "this is no settings file", expected, str(path)))
    foreign = read_foreign(path)
    if foreign:
        for line in foreign.lines():
            print(f"note: {line}", file=sys.stderr)
        known = settings(config)
        return {name: value for name, value in foreign.settings.items() if name in known}
    raw = parse_file(path)
    if not isinstance(raw, dict):
        raise BadInput(Problem("config", f"{path} holds no settings", "an object", type(raw).__name__))
    return flattened(raw, config)


def _pairs(texts: Iterable[str]) -> dict[str, object]:
    bad = [text for text in texts if not text.partition("=")[0].strip() or "=" not in text]
    if bad:
        raise BadInput(*(Problem("set", "this is no setting", "key=value", repr(text)) for text in bad))
    return {key.strip(): value for key, _, value in (text.partition("=") for text in texts)}


def _unknown(word: str, known: list[str]) -> Problem:
    if not word.startswith("-"):
        fix = 'Put quotes around a value that holds spaces: "my cat".'
        return Problem(word, "this word belongs to no flag", fix=fix)
    near = difflib.get_close_matches(word.partition("=")[0], known, n=1)
    return Problem(word, "there is no such flag", fix=f"Did you mean {near[0]}?" if near else "")


def _placeholder(s: Setting) -> str:
    return {int: "N", float: "X"}.get(s.type, "|".join(s.choices) or "TEXT")


def _range(s: Setting) -> str:
    unit = f" {s.unit}" if s.unit else ""
    if s.minimum is not None and s.maximum is not None:
        span = f"{number(s.minimum)} to {number(s.maximum)}{unit}"
    elif s.minimum is not None:
        span = f"at least {number(s.minimum)}{unit}"
    else:
        span = s.unit
    return ", ".join(filter(None, [span, f"a multiple of {s.multiple}" if s.multiple else ""]))


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"{default:g}" if isinstance(default, float) else str(default)
