"""`python tasks.py demo`, `test` and `pictures`: everything from a fresh clone. Standard library only."""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
REQUIREMENTS = ROOT / "requirements"
OLDEST = (3, 10)
CODE = ("lora_ext", "scripts", "demo", "benchmarks", "tests", "docs", "tasks.py", "install.py")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
PLAYWRIGHTS = "from playwright.sync_api import sync_playwright as p\nwith p() as d: print(d.chromium.executable_path)"


class Trouble(Exception):
    """Something the user has to put right; shown as one line."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one task; returns its exit code."""
    args, rest = _parser().parse_known_args(argv)
    try:
        if sys.version_info < OLDEST:
            raise Trouble(f"Python 3.10 or newer is needed; this is {sys.version.split()[0]}")
        if args.task == "demo":
            return demo(rest, ui=args.ui)
        if args.task == "pictures":
            return pictures(rest)
        return test(rest, host_pins=args.host_pins, webui=args.webui)
    except Trouble as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python tasks.py", description="Try it, test it.", allow_abbrev=False)
    tasks = parser.add_subparsers(dest="task", required=True)
    demo_parser = tasks.add_parser("demo", help="train a LoRA on a few pictures and show what it does")
    demo_parser.add_argument("--ui", action="store_true", help="open the training tab at 127.0.0.1:7861 instead")
    tasks.add_parser("pictures", help="make the pictures of the documents anew, in a browser")
    test_parser = tasks.add_parser("test", help="run the whole suite; further words go to pytest")
    test_parser.add_argument("--host-pins", action="store_true", help="on Python 3.10 with A1111's own versions")
    test_parser.add_argument("--webui", action="store_true", help="only the tests in the real WebUI at $WEBUI_DIR")
    return parser


def demo(rest: Sequence[str], *, ui: bool) -> int:
    """Install what the demo needs into `.venv` and run it."""
    python = environment(ROOT / ".venv", Path(sys.executable), ["demo.txt", *(["ui.txt"] if ui else [])])
    say("starting the demo")
    return run([python, "-m", "demo.run", *(["--ui"] if ui else []), *rest])


def pictures(rest: Sequence[str]) -> int:
    """Install what the suite needs, whose browser it is, and go through the demo's tab."""
    python = environment(ROOT / ".venv", Path(sys.executable), ["test.txt"], alone="no-deps.txt")
    browser(python)
    say("the pictures of docs/")
    return run([python, "-m", "docs.screenshots", *rest])


def test(rest: Sequence[str], *, host_pins: bool, webui: bool) -> int:
    """Install what the suite needs and run it: style and types (newest libraries only), then pytest."""
    if webui and not Path(os.environ.get("WEBUI_DIR", "")).joinpath("launch.py").is_file():
        raise Trouble("--webui needs WEBUI_DIR, the folder of a stable-diffusion-webui that starts on this machine")
    if host_pins:
        python = environment(ROOT / ".venv-pins", python310(), ["host-pins.txt"], alone="no-deps.txt")
    else:
        python = environment(ROOT / ".venv", Path(sys.executable), ["test.txt"], alone="no-deps.txt")
    browser(python)
    codes = [] if host_pins or webui or rest else [check(python)]
    say("pytest")
    codes.append(run([python, "-m", "pytest", *(["tests/hosts"] if webui else []), *rest]))
    return max(codes, key=abs)


def check(python: Path) -> int:
    """Style and types."""
    code = [name for name in CODE if (ROOT / name).exists()]
    steps = [["ruff", "check", *code], ["ruff", "format", "--check", *code], ["mypy"]]
    results = []
    for step in steps:
        say(" ".join(step[:2]))
        results.append(run([python, "-m", *step]))
    return max(results, key=abs)


def environment(folder: Path, python: Path, requirements: Sequence[str], *, alone: str = "") -> Path:
    """A virtual environment with the packages of some requirement files; quick when nothing changed since.

    `alone` is a file whose packages are installed without what they ask for. Returns the environment's Python.
    """
    inside = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / f"installed-{requirements[0]}"
    wanted = fingerprint(python, [*requirements, *([alone] if alone else [])])
    if inside.exists() and stamp.exists() and wanted in stamp.read_text(encoding="utf8").split():
        return inside
    if not inside.exists() or quiet([inside, "-m", "pip", "--version"]) is None:
        say(f"making {folder.name}")
        make(folder, python)
    size = "several GB with CUDA" if sys.platform == "linux" else "some hundred MB"
    say(f"installing {', '.join(requirements)} into {folder.name} (the first time this takes minutes: torch is {size})")
    pip(inside, [word for name in requirements for word in ("-r", str(REQUIREMENTS / name))])
    if alone:
        pip(inside, ["--no-deps", "-r", str(REQUIREMENTS / alone)])
    with stamp.open("a", encoding="utf8") as file:
        file.write(wanted + "\n")
    return inside


def fingerprint(python: Path, names: Sequence[str]) -> str:
    """A hash that changes with the interpreter and with any requirement file that could matter."""
    digest = hashlib.sha256(str(python).encode())
    for path in sorted(REQUIREMENTS.glob("*.txt")):  # all of them: the files include one another
        digest.update(path.read_bytes())
    return hashlib.sha256(digest.digest() + " ".join(names).encode()).hexdigest()


def make(folder: Path, python: Path) -> None:
    """Make a fresh virtual environment, in place of a broken one too."""
    if python == Path(sys.executable):
        venv.create(folder, with_pip=True, clear=True)
    elif run([python, "-m", "venv", "--clear", str(folder)]):
        raise Trouble(f"{python} could not make {folder}")


def pip(python: Path, words: Sequence[str]) -> None:
    """`pip install`; pip's own messages say what went wrong."""
    loud = [] if sys.stdout.isatty() else ["--quiet"]
    if run([python, "-m", "pip", "install", "--disable-pip-version-check", *loud, *words]):
        raise Trouble("pip could not install everything (see above); a second try goes on where this one stopped")


def browser(python: Path) -> None:
    """Tests of the tab drive a real browser, named in $CHROMIUM: the machine's own, or one that playwright keeps."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        say("no Chromium on this machine: asking playwright for one")
        run([python, "-m", "playwright", "install", "chromium"])
        kept = (quiet([python, "-c", PLAYWRIGHTS]) or "").strip()
        found = kept if Path(kept).is_file() else None
    if found:
        os.environ["CHROMIUM"] = found
    else:
        say("that did not work; the browser tests will be skipped and say so")


def python310() -> Path:
    """A Python 3.10 on this machine, or `Trouble`."""
    for command in candidates310():
        words = [*command, "-c", "import sys; print(sys.version_info[:2] == (3, 10)); print(sys.executable)"]
        answer = (quiet(words) or "").splitlines()
        if len(answer) == 2 and answer[0] == "True":
            return Path(answer[1])
    raise Trouble(
        "--host-pins needs Python 3.10 (A1111's own): none on PATH, in pyenv, uv or the py launcher. "
        "Install it (for example `pyenv install 3.10` or `uv python install 3.10`) and run this again"
    )


def candidates310() -> Iterator[list[str]]:
    """Commands that may start a Python 3.10."""
    yield [sys.executable]
    if os.name == "nt":
        yield ["py", "-3.10"]
    yield ["python3.10"]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for found in sorted(pyenv.glob("versions/3.10*/bin/python"), reverse=True):
        yield [str(found)]
    known = quiet(["uv", "python", "find", "3.10"])
    if known:
        yield [known.strip()]


def run(words: Sequence[str | Path]) -> int:
    """Run a command in the project's folder with its output shown; returns its exit code."""
    return subprocess.run([str(word) for word in words], cwd=ROOT, check=False).returncode


def quiet(words: Sequence[str | Path]) -> str | None:
    """A command's output, or None when it is not there or fails."""
    try:
        done = subprocess.run([str(word) for word in words], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def say(text: str) -> None:
    """A line of progress."""
    print(f"== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
