"""How smooth step 1 of the tab is with many pictures, in a real browser.

    python -m benchmarks.pictures_page [--pictures 2000] [--folder DIR] [--json]

Makes real JPEG files with captions of twenty tags, serves the tab on a free port of this machine and opens it in
Chromium ($CHROMIUM names another). Times are what the browser's own clock says, from the act to the paint after it:
the folder named until every thumbnail in sight is drawn, an edit until the tile shows it, a jump to the middle of the
grid until its thumbnails are drawn, a search, a change of all captions. `limit` is what is asked of the tab.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
import uvicorn
from PIL import Image, ImageDraw
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
    """Pictures of 512 to 768 px with a caption each."""
    folder.mkdir()
    chance = random.Random(0)
    tags = [f"tag {n}" for n in range(300)]
    for n in range(count):
        size = chance.choice([512, 640, 768]), chance.choice([512, 640, 768])
        image = Image.new("RGB", size, tuple(chance.randrange(256) for _ in range(3)))
        draw = ImageDraw.Draw(image)
        for _ in range(12):
            x, y, r = chance.randrange(700), chance.randrange(700), chance.randrange(10, 200)
            draw.ellipse((x, y, x + r, y + r), fill=tuple(chance.randrange(256) for _ in range(3)))
        image.save(folder / f"p{n:05}.jpg", quality=85)
        (folder / f"p{n:05}.txt").write_text(", ".join(chance.sample(tags, 20)))


def measure(place: Path, count: int) -> tuple[list[Row], list[str]]:
    """Open the page and do what a user does; every act is checked to have happened."""
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
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.set_default_timeout(120_000)
            page.goto(f"http://127.0.0.1:{port}/")
            page.wait_for_selector("[data-pic=report]:not(:empty)", state="attached")
            found = acts(page, place / "pictures", count)
            browser.close()
    finally:
        server.should_exit = True
        thread.join(10)
    return found


def acts(page: Page, folder: Path, count: int) -> tuple[list[Row], list[str]]:
    rows: list[Row] = []

    def act(work: str, script: str, ready: str, limit: float | None = None) -> None:
        page.evaluate(f"() => {{ window.benchmarkAct = {script}; window.benchmarkReady = {ready}; }}")
        rows.append(Row(work, float(page.evaluate(CLOCK)), None, "", limit, "s"))
        print(f"{work}: {rows[-1].ours:.3f} s", file=sys.stderr, flush=True)

    name = str(folder).replace("\\", "\\\\")
    type_it = f"""() => {{
        const box = document.querySelector("#lora_ext_field_images textarea, #lora_ext_field_images input");
        box.value = "{name}";
        box.dispatchEvent(new Event("input", {{bubbles: true}}));
        box.dispatchEvent(new Event("change", {{bubbles: true}}));
    }}"""
    act(f"{count} pictures: the folder named, first thumbnails drawn", type_it, IN_SIGHT, FIRST)
    act(
        "  all of them read",
        "() => {}",
        f"() => loraExtPictures.state.facts.complete && loraExtPictures.state.entries.size === {count}",
    )
    caption = """() => {
        const box = document.querySelector("[data-pic=caption]");
        box.focus();
        box.value = "WORDS";
        box.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter", bubbles: true}));
    }"""
    shown = """() => document.querySelector(".lora-ext-pic-cursor .lora-ext-pic-words")?.textContent === "WORDS" """
    known = "() => loraExtPictures.state.facts.unsaved === 1"
    act("a caption edited, shown (while thumbnails are still being made)", caption.replace("WORDS", "new words"),
        shown.replace("WORDS", "new words"), EDIT)  # fmt: skip
    act("  and known to the server", "() => {}", known)
    middle = """() => {
        const grid = document.querySelector("[data-pic=grid]");
        grid.scrollTop = grid.scrollHeight / 2;
    }"""
    act("a jump to the middle, thumbnails drawn", middle, IN_SIGHT, FIRST)
    search = """() => {
        const box = document.querySelector("[data-pic=search]");
        box.value = "p00012";
        box.dispatchEvent(new Event("input", {bubbles: true}));
    }"""
    act("a search, shown", search, "() => document.querySelectorAll('.lora-ext-pic-tile').length <= 12", EDIT)
    act("  and taken back", search.replace("p00012", ""), f"() => loraExtPictures.state.shown.length === {count}", EDIT)
    page.wait_for_function(f"() => loraExtPictures.state.facts.looked === {count}", timeout=600_000)
    act("a caption edited, shown (afterwards)", caption.replace("WORDS", "other words"),
        shown.replace("WORDS", "other words"), EDIT)  # fmt: skip
    tag = """() => {
        document.querySelector("[data-pic=words]").value = "sks";
        document.querySelector("[data-bulk=add_front]").click();
    }"""
    act(f"a tag in front of all {count} captions", tag, f"() => loraExtPictures.state.facts.unsaved === {count}")
    some = f"() => loraExtPictures.state.facts.unsaved < {count}"
    act("  undone", "() => document.querySelector('[data-pic=undo]').click()", some)
    act("  done again", "() => document.querySelector('[data-pic=redo]').click()",
        f"() => loraExtPictures.state.facts.unsaved === {count}")  # fmt: skip
    act(f"Save of {count} captions", "() => document.querySelector('[data-pic=save]').click()",
        "() => loraExtPictures.state.facts.unsaved === 0")  # fmt: skip
    assert (folder / f"p{count - 1:05}.txt").read_text().startswith("sks, "), "the captions are not on disk"
    heap = page.evaluate("() => performance.memory ? performance.memory.usedJSHeapSize / 2 ** 20 : 0")
    tiles = page.evaluate("() => document.querySelectorAll('.lora-ext-pic-tile').length")
    return rows, [f"{tiles} of {count} tiles are in the page; its scripts hold {heap:.0f} MB"]


if __name__ == "__main__":
    main()
