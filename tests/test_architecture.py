"""The table of rooms is executable: a forbidden import fails here."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lora_ext"

WORDS = {"config", "errors", "layers"}
HOST_PACKAGES = {"modules", "backend", "ldm_patched", "launch", "ldm", "sgm"}

MAY_IMPORT: dict[str, set[str]] = {
    "config": {"errors"},
    "errors": set(),
    "layers": set(),
    "adapters": {"layers", "errors"},
    "formats": {"adapters", "layers", "errors"},
    "model": {"layers", "errors"},
    "patching": {"adapters", "layers", "errors"},
    "captioner": {"errors"},
    "live": {"model", "patching", "adapters", "layers", "errors"},
    "diffusion": set(),
    "config_import": {"config", "errors"},
    "data": {"captioner", "config", "errors"},
    "presets": set(WORDS),
    "training": {"live", "adapters", "formats", "model", "patching", "diffusion", "data", *WORDS},
    "hosts": {"captioner", "live", "model", "patching", "formats", "adapters", *WORDS},
    "ui": {"training", *WORDS},
    "api": {
        "captioner",
        "config_import",
        "presets",
        "live",
        "training",
        "hosts",
        "ui",
        "formats",
        "model",
        "data",
        *WORDS,
    },
    "cli": {"config_import", "live", "training", "hosts", "ui", "api", "formats", "model", "data", "adapters", *WORDS},
    "__main__": {"cli"},
    "__init__": set(),
}

THIRD_PARTY: dict[str, set[str]] = {
    # rooms that may import a package that not every room may
    "gradio": {"ui"},
    "diffusers": {"model", "hosts", "training"},
    "transformers": {"model", "hosts", "training"},
    "PIL": {"captioner", "data", "hosts", "training", "ui", "api", "cli", "live"},
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} relative import; write the whole name"
            if node.module == "lora_ext":
                found += [(node.lineno, f"lora_ext.{alias.name}") for alias in node.names]
            else:
                found.append((node.lineno, node.module or ""))
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


def test_every_room_is_in_the_table() -> None:
    assert {room_of(p) for p in FILES} <= set(MAY_IMPORT)
    assert len(FILES) > 10


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_table(path: Path) -> None:
    room = room_of(path)
    for line, name in imports(path):
        top, *rest = name.split(".")
        if top == "lora_ext" and rest and rest[0] not in {"__version__", room}:
            assert rest[0] in MAY_IMPORT[room], f"{path}:{line}: {room} must not import {name}"
        if top in HOST_PACKAGES:
            assert room == "hosts", f"{path}:{line}: only hosts imports {top}"
        if top in THIRD_PARTY:
            assert room in THIRD_PARTY[top], f"{path}:{line}: {room} must not import {top}"


def test_scripts_only_register() -> None:
    for path in (ROOT / "scripts").glob("*.py"):
        assert len(path.read_text(encoding="utf8").splitlines()) <= 60, f"{path} grew past 60 lines"


def test_no_drawer_for_odds_and_ends() -> None:
    names = {p.name for p in ROOT.rglob("*.py") if ".venv" not in str(p)}
    assert not names & {"utils.py", "util.py", "common.py", "helper.py", "helpers.py", "misc.py"}
