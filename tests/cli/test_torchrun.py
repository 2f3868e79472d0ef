"""`torchrun -m lora_ext train …`: one run in two processes, one file and one voice."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def launched(*words: str) -> subprocess.CompletedProcess[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    run = [sys.executable, *launcher, "--master-port", str(port), "-m", "lora_ext", "train", *words]
    quiet = {"CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        run, cwd=ROOT, env={**os.environ, **quiet}, capture_output=True, text=True, timeout=300, check=False
    )


def test_two_processes_train_one_lora(checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    model = ["--checkpoint", str(checkpoint), "--images", str(pictures), "--device", "cpu"]
    small = ["--resolution", "64", "--epochs", "3", "--rank", "2"]
    done = launched(*model, *small, "--output", str(tmp_path / "both"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(tmp_path / "both.safetensors"), "<lora:both:1>"]
    assert "2 processes train together" in done.stderr
    assert done.stderr.count("3/3") == 1, "two pictures are one batch: three epochs are three steps, told once"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["both.config.toml", "both.log.csv", "both.safetensors"]
