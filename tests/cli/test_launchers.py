"""`torchrun` and `accelerate launch -m lora_ext train …`: one run in two processes, one file and one voice."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_ext.cli import train
from lora_ext.cli.progress import Progress

ROOT = Path(__file__).parents[2]
SMALL = ["--device", "cpu", "--resolution", "64", "--rank", "2"]


def torchrun(port: str) -> list[str]:
    place = ["--master-addr", "127.0.0.1", "--master-port", port]
    return ["-m", "torch.distributed.run", "--nproc-per-node", "2", *place]


def accelerate(port: str) -> list[str]:
    """Told all that it would otherwise ask for or take from the user's own settings of it."""
    place = ["--num_machines", "1", "--main_process_port", port]
    plain = ["--mixed_precision", "no", "--dynamo_backend", "no"]
    return ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", *place, *plain]


def launch(launcher: Callable[[str], list[str]], home: Path, *words: str) -> subprocess.Popen[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run = [sys.executable, *launcher(str(port)), "-m", "lora_ext", "train", *words, *SMALL]
    quiet = {"CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "HF_HOME": str(home)}
    return subprocess.Popen(
        run,
        cwd=ROOT,
        env={**os.environ, **quiet},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a terminal's Ctrl-C reaches the launcher and all it started
    )


def test_two_processes_train_one_lora(checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    files = ["--checkpoint", str(checkpoint), "--images", str(pictures), "--output", str(tmp_path / "both")]
    process = launch(torchrun, tmp_path / "home", *files, "--epochs", "3")
    said, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert said.splitlines() == [str(tmp_path / "both.safetensors"), "<lora:both:1>"]
    assert "2 processes train together" in told
    assert told.count("kill -INT ") == (os.name != "nt")
    assert told.count("3/3") == 1, "two pictures are one batch: three epochs are three steps, told once"
    written = {p.name for p in tmp_path.iterdir()} - {"home"}
    assert written == {"both.config.toml", "both.log.csv", "both.safetensors"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one group of processes")
def test_ctrl_c_on_the_launcher_keeps_what_was_learnt(checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    files = ["--checkpoint", str(checkpoint), "--images", str(pictures), "--output", str(tmp_path / "both")]
    process = launch(accelerate, tmp_path / "home", *files, "--epochs", "9999")
    try:
        log, late = tmp_path / "both.log.csv", time.monotonic() + 240
        while not (log.is_file() and log.read_text().count("\n") > 2) and time.monotonic() < late:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        said, told = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert said.splitlines() == [str(tmp_path / "both.safetensors"), "<lora:both:1>"], told
    assert (tmp_path / "both.safetensors").stat().st_size > 1000
    assert "2 processes train together" in told
    assert told.count("stopping after this step") == told.count("stopped at step") == 1
    assert f"{os.sep}lora_ext{os.sep}" not in told.replace(str(tmp_path), ""), "no traceback of ours"


@pytest.mark.skipif(os.name == "nt", reason="os.kill with SIGINT ends a process on Windows")
def test_one_ctrl_c_may_arrive_twice(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """From the terminal and from the launcher; the second press still ends the process at once."""
    with train.interruptible(Progress(sys.stderr)) as asked:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        assert asked.stop
        monkeypatch.setattr(train, "ECHO", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    with train.interruptible(Progress(sys.stderr, quiet=True)):
        os.kill(os.getpid(), signal.SIGINT)
    assert capsys.readouterr().err.count("stopping after this step") == 1
