"""A service over a scripted run, and the same on a port for a browser."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI
from scripted import Script, Workplace
from scripted_model import model
from starlette.testclient import TestClient

from lora_ext import api
from lora_ext.api import choice, sheets
from lora_ext.api import service as services
from lora_ext.training import JobBoard
from lora_ext.training.queue import JobQueue
from lora_ext.ui import application


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workplace]:
    script, saved = Script(pause=0.001), []
    monkeypatch.setattr(services, "board", JobBoard())
    monkeypatch.setattr(services, "queue", JobQueue())
    monkeypatch.setattr(services, "train", script.train)
    monkeypatch.setattr(services, "check", script.check)
    monkeypatch.setattr(choice, "compare", script.compare)
    monkeypatch.setattr(sheets, "easel", sheets.Easel())
    outputs, pictures = tmp_path / "loras", tmp_path / "pictures"
    outputs.mkdir()
    pictures.mkdir()
    made = Workplace(api.make_service(model, lambda: outputs, saved.append), script, outputs, pictures, saved)
    yield made
    script.hold.set()
    made.end()


@pytest.fixture
def client(stage: Workplace) -> TestClient:
    """Asks the addresses of `stage` without a server."""
    app = FastAPI()
    api.mount(app, stage.service)
    return TestClient(app)


@pytest.fixture
def address(stage: Workplace) -> Iterator[str]:
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


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    from tabpage import CHROMIUM, FLAGS, playwright  # it skips loudly where playwright is missing

    if not CHROMIUM:
        pytest.skip("NOT CHECKED: no Chromium here for the tab's tests; install one or set CHROMIUM to its path")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, address):
    from tabpage import WIDE, ready

    contexts, crashes = [], []

    def blamable(line):
        """An error of a script; what could not be fetched is the test's doing, or asked for by gradio itself."""
        return line.type == "error" and "Failed to load resource" not in line.text

    def opened(size=None, dark=False, **more):
        context = browser.new_context(viewport=size or WIDE, color_scheme="dark" if dark else "light", **more)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda crash: crashes.append(str(crash)))
        page.on("console", lambda line: crashes.append(line.text) if blamable(line) else None)
        page.goto(f"{address}?__theme={'dark' if dark else 'light'}")
        ready(page)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not crashes
