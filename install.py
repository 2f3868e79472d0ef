"""Adds the Python packages this extension needs and the WebUI lacks. Never changes a package that is there.

The WebUI runs this on every start, before torch is loaded. When nothing is missing it asks no package index and ends at
once. When something is missing, pip gets every installed version as a constraint; if it then finds no way, nothing is
installed, the WebUI starts all the same, and the lines printed here say what to do.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

NEEDED = ("diffusers", "PyYAML", *(("tomli",) if sys.version_info < (3, 11) else ()))
NAME = "LoRA training"


def main() -> int:
    """Install what is missing. Always 0: a WebUI without this extension is better than none."""
    wanted = [requirement(name) for name in NEEDED if version(name) is None]
    if wanted:
        print(f"{NAME}: installing {', '.join(wanted)}", flush=True)
        trouble = install(wanted)
        if trouble:
            print(f"{NAME}: could not install {', '.join(wanted)}. The WebUI starts without it.")
            print(f"{NAME}: {trouble}")
            print(f'{NAME}: when you are online, restart, or run: "{sys.executable}" "{Path(__file__).resolve()}"')
    return 0


def requirement(name: str) -> str:
    """What to ask pip for. diffusers from 0.31 on needs a newer torch and transformers than A1111 1.10.1 has."""
    if name == "diffusers" and (older("torch", (2, 4)) or older("transformers", (4, 41))):
        return "diffusers==0.30.3"
    return name


def version(name: str) -> str | None:
    """The installed version, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def older(name: str, than: tuple[int, int]) -> bool:
    """Whether an installed package is older than major.minor; one that is absent is not."""
    found = re.match(r"(\d+)\.(\d+)", version(name) or "")
    return found is not None and (int(found[1]), int(found[2])) < than


def constraints() -> Iterator[str]:
    """`name==version` of everything installed; what pip cannot read as a version is left to pip's own care.

    Each name once, as Python itself finds it: pip's remains of an old version (`~umpy-1.23.5.dist-info`, often on
    Windows) say another one.
    """
    for name in {found.metadata["Name"] for found in metadata.distributions()}:
        held = name and version(name)
        if held and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) and re.fullmatch(r"[0-9][A-Za-z0-9.+!_-]*", held):
            yield f"{name}=={held}"


def install(wanted: Sequence[str]) -> str:
    """Run pip under constraints; returns what went wrong in one line, or nothing."""
    handle, path = tempfile.mkstemp(suffix=".txt", prefix="constraints-")
    try:
        with os.fdopen(handle, "w", encoding="utf8") as file:
            file.write("\n".join(sorted(set(constraints()))) + "\n")
        return pip(["install", "--prefer-binary", "-c", path, *wanted])
    finally:
        os.unlink(path)


def pip(words: Sequence[str]) -> str:
    """Run pip; returns its last error line, or nothing when all went well."""
    index = os.environ.get("INDEX_URL", "")  # the WebUI's own setting for another package index
    command = [sys.executable, "-m", "pip", *words, "--disable-pip-version-check", "--no-input"]
    done = subprocess.run(
        [*command, *(["--index-url", index] if index else [])],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf8",
        errors="replace",
        check=False,
    )
    if done.returncode == 0:
        return ""
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "error" in line.lower()), "pip failed")


if __name__ == "__main__":
    sys.exit(main())
