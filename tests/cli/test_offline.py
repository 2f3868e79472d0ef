"""No hub is ever asked: the commands run with every way out of the machine watched and closed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WATCH = """
import os, sys
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        with open(os.environ["WATCH_LOG"], "a") as log:
            log.write(f"{event} {args}\\n")
        raise OSError("the network is closed for this test")
sys.addaudithook(watch)
"""


@pytest.fixture
def closed(tmp_path: Path) -> dict[str, str]:
    """Environment of a process that logs and refuses whatever would leave the machine; no cache to fall back on."""
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    environ["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(ROOT)])
    environ["WATCH_LOG"] = str(tmp_path / "log.txt")
    environ["HF_HOME"] = str(tmp_path / "no_cache")
    return environ


def run(environ: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], env=environ, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_watch_sees(closed: dict[str, str], tmp_path: Path) -> None:
    code = "import urllib.request as u\ntry: u.urlopen('http://example.invalid')\nexcept OSError: pass"
    assert run(closed, "-c", code).returncode == 0
    assert "example.invalid" in (tmp_path / "log.txt").read_text()


def test_train_and_generate_never_leave_the_machine(
    closed: dict[str, str], checkpoint: Path, pictures: Path, small: list[str], tmp_path: Path
) -> None:
    model = ["--checkpoint", str(checkpoint), "--device", "cpu"]
    train = ["train", *model, "--images", str(pictures), "--output", str(tmp_path / "cat"), *small]
    picture = ["generate", *model, "--lora-dir", str(tmp_path), "--prompt", "a <lora:cat:0.7>", "--size", "64x64"]
    for words in (train, [*picture, "--steps", "2", "--output", str(tmp_path / "a.png")]):
        done = run(closed, "-m", "lora_ext", *words)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.png").is_file()
    assert not (tmp_path / "log.txt").exists(), (tmp_path / "log.txt").read_text()


def test_an_error_is_all_that_is_said(closed: dict[str, str], checkpoint: Path, tmp_path: Path) -> None:
    """Libraries that speak up as they are imported would stand before it."""
    cache = Path(closed["HF_HOME"], "hub")
    cache.mkdir(parents=True)
    (cache / "version.txt").write_text("1")  # transformers 4.30 tells once that it looks for an older cache
    picture = ["generate", "--checkpoint", str(checkpoint), "--lora-dir", str(tmp_path), "--prompt", "a <lora:none:1>"]
    done = run(closed, "-m", "lora_ext", *picture, "--device", "cpu", "--output", str(tmp_path / "a.png"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: none: ")
    assert done.stderr.count("\n") == 1, done.stderr
