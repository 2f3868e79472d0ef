"""A service over a scripted run, and the same on a port for a browser."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI
from scripted import Script

from lora_ext import api
from lora_ext.training import JobBoard
from lora_ext.ui import Service, application


@dataclass
class Stage:
    """A service, the script its runs follow, and where its files go."""

    service: Service
    script: Script
    outputs: Path
    pictures: Path
    saved: list[Path]

    def values(self, **more: object) -> dict[str, object]:
        """Settings that start a run."""
        return {"images": str(self.pictures), "output": "my cat", "max_steps": 30, **more}

    def wait(self, *states: str) -> dict[str, object]:
        """The first snapshot in one of these states."""
        for _ in range(1000):
            now = self.service.snapshot()
            if now["state"] in states:
                return now
            time.sleep(0.01)
        raise AssertionError(f"still {now['state']}, not {states}")


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    script, saved = Script(pause=0.001), []
    monkeypatch.setattr(api, "board", JobBoard())
    monkeypatch.setattr(api, "train", script.train)
    outputs, pictures = tmp_path / "loras", tmp_path / "pictures"
    outputs.mkdir()
    pictures.mkdir()
    made = Stage(api.make_service(object, lambda: outputs, saved.append), script, outputs, pictures, saved)
    yield made
    script.hold.set()
    made.service.stop()
    made.wait("idle", "done", "stopped", "failed")


@pytest.fixture
def address(stage: Stage) -> Iterator[str]:
    """The page of `stage` on a free local port."""

    def mount(app: FastAPI) -> None:
        api.mount(app, stage.service)

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = uvicorn.Config(application(stage.service, mount), host="127.0.0.1", port=port, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    for _ in range(600):
        if server.started:
            break
        time.sleep(0.05)
    assert server.started
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join(10)
