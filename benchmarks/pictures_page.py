"""How smooth step 1 of the tab is with many pictures, in a real browser.

    python -m benchmarks.pictures_page [--pictures 2000] [--folder DIR] [--json]

Makes real JPEG files with captions of twenty tags, serves the tab on a free port of this machine and opens it in
Chromium ($CHROMIUM names another). Times are what the browser's own clock says, from the act to the paint after it:
the folder named until every thumbnail in sight is drawn, an edit until the tile shows it, a jump to the middle of the
grid until its thumbnails are drawn, a search, a change of all captions. `limit` is what is asked of the tab; in the
place of a peer stands the processor time that the server took meanwhile, which a busy machine does not change.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import uvicorn
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from benchmarks.report import Row, show
from lora_ext import api
from lora_ext.api import pictures
from lora_ext.data.editing import Desk
from lora_ext.ui import application

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]

FIRST, EDIT = 1.0, 0.1
"""Seconds that are asked for: the first thumbnails, an edit."""

CLOCK = """() => new Promise((done, fail) => {
    const begin = performance.now();
    setTimeout(() => fail(new Error("nothing came of it in two minutes")), 120000);
    const look = () => {
        if (window.benchmarkReady()) requestAnimationFrame(() => done((performance.now() - begin) / 1000));
        else requestAnimationFrame(look);
    };
    window.benchmarkAct();
    look();
})"""
"""Seconds from an act until what it is to bring about is there and painted."""

IN_SIGHT = """() => {
    const grid = document.querySelector("[data-pic=grid]");
    const {top, bottom} = grid.getBoundingClientRect();
    const seen = [...grid.querySelectorAll(".lora-ext-pic-tile")].filter((tile) => {
        const box = tile.getBoundingClientRect();
        return box.bottom > top && box.top < bottom;
    });
    return seen.length > 0 && seen.every((tile) => tile.querySelector("img")?.complete);
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--folder", help="where to make the pictures; a temporary folder when left out")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="lora-ext-pictures-", dir=args.folder))
    try:
        make(place / "pictures", args.pictures)
        rows, notes = measure(place, args.pictures)
    finally:
        shutil.rmtree(place)
    show(rows, torch.device("cpu"), as_json=args.json, notes=notes)


def make(folder: Path, count: int) -> None:
    """Pictures of 512 to 768 px, no two alike, with a caption of twenty tags each."""
    folder.mkdir()
    chance = random.Random(0)
    tags = [f"tag {n}" for n in range(300)]
    for n in range(count):
        size = chance.choice([512, 640, 768]), chance.choice([512, 640, 768])
        coarse = Image.frombytes("RGB", (12, 12), chance.randbytes(12 * 12 * 3))
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"p{n:05}.jpg", quality=85)
        (folder / f"p{n:05}.txt").write_text(", ".join(chance.sample(tags, 20)))


def measure(place: Path, count: int) -> tuple[list[Row], list[str]]:
    """Open the page and do what a user does; every act is checked to have happened."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    with _served(place) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(120_000)
        page.goto(address)
        page.wait_for_selector("[data-pic=report]:not(:empty)", state="attached")
        rows = [_row(page, act) for act in acts(place / "pictures", count)]
        heap = page.evaluate("() => performance.memory ? performance.memory.usedJSHeapSize / 2 ** 20 : 0")
        tiles = page.locator(".lora-ext-pic-tile").count()
        browser.close()
    last = place / "pictures" / f"p{count - 1:05}.txt"
    assert last.read_text().startswith("sks, "), "the captions are not on disk"
    return rows, [f"{tiles} of {count} tiles are in the page; its scripts hold {heap:.0f} MB"]


@contextmanager
def _served(place: Path) -> Iterator[str]:
    """The tab on a free port of this machine."""
    pictures.desk = Desk(lambda: place / "cache")
    service = api.make_service(object, lambda: place)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    app = application(service, lambda app: api.mount(app, service))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join(10)


@dataclass(frozen=True)
class Act:
    """Something a user does: `script` does it, and `ready` is true once it is there. `limit`: seconds it may take."""

    work: str
    script: str
    ready: str
    limit: float | None = None


def _row(page: Page, act: Act) -> Row:
    begin = time.process_time()
    page.evaluate(f"() => {{ window.benchmarkAct = {act.script}; window.benchmarkReady = {act.ready}; }}")
    seconds = float(page.evaluate(CLOCK))
    used = time.process_time() - begin
    print(f"{act.work}: {seconds:.3f} s, {used:.3f} s of the server's processor time", file=sys.stderr, flush=True)
    return Row(act.work, seconds, used, "server's processor time", act.limit, "s")


def acts(folder: Path, count: int) -> list[Act]:
    """What is done, in this order."""
    unsaved = "() => loraExtPictures.state.facts.unsaved"
    every = f"{unsaved} === {count}"
    whole = f"state.facts.complete && state.entries.size === {count}"
    return [
        Act(
            f"{count} pictures: the folder named, first thumbnails drawn", _typed(FOLDER, str(folder)), IN_SIGHT, FIRST
        ),
        Act("a caption edited, shown (while the folder is still being read)", _caption("new"), _shown("new"), EDIT),
        Act("  and known to the server", NOTHING, f"{unsaved} === 1"),
        Act("  all of the folder read", NOTHING, f"() => {{ const {{state}} = loraExtPictures; return {whole}; }}"),
        Act("a jump to the middle, thumbnails drawn", JUMP, IN_SIGHT, FIRST),
        Act("a search, shown", _typed(SEARCH, "p00012"), f"() => {TILES} <= 12", EDIT),
        Act("  and taken back", _typed(SEARCH, ""), f"() => loraExtPictures.state.shown.length === {count}", EDIT),
        Act("every picture looked at", NOTHING, f"() => loraExtPictures.state.facts.looked === {count}"),
        Act("a caption edited, shown (afterwards)", _caption("other"), _shown("other"), EDIT),
        Act(f"a tag in front of all {count} captions", ADD_TAG, every),
        Act("  undone", _pressed("undo"), f"{unsaved} < {count}"),
        Act("  done again", _pressed("redo"), every),
        Act(f"Save of {count} captions", _pressed("save"), f"{unsaved} === 0"),
    ]


FOLDER = "#lora_ext_field_images textarea, #lora_ext_field_images input"
SEARCH = "[data-pic=search]"
TILES = "document.querySelectorAll('.lora-ext-pic-tile').length"
NOTHING = "() => {}"

JUMP = """() => {
    const grid = document.querySelector("[data-pic=grid]");
    grid.scrollTop = grid.scrollHeight / 2;
}"""

ADD_TAG = """() => {
    document.querySelector("[data-pic=words]").value = "sks";
    document.querySelector("[data-bulk=add_front]").click();
}"""


def _typed(place: str, text: str) -> str:
    return f"""() => {{
        const box = document.querySelector({json.dumps(place)});
        box.value = {json.dumps(text)};
        for (const kind of ["input", "change"]) box.dispatchEvent(new Event(kind, {{bubbles: true}}));
    }}"""


def _pressed(name: str) -> str:
    return f"() => document.querySelector('[data-pic={name}]').click()"


def _caption(words: str) -> str:
    return f"""() => {{
        const box = document.querySelector("[data-pic=caption]");
        box.focus();
        box.value = "{words}";
        box.dispatchEvent(new KeyboardEvent("keydown", {{key: "Enter", bubbles: true}}));
    }}"""


def _shown(words: str) -> str:
    return f"() => document.querySelector('.lora-ext-pic-cursor .lora-ext-pic-words')?.textContent === '{words}'"


if __name__ == "__main__":
    main()
