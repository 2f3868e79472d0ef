"""The pictures of these pages: somebody goes through the demo's tab in Chromium, from the pictures to the choice.

    python tasks.py pictures

trains the demo's character (minutes) and writes `docs/pictures/STEP-WIDTH-THEME.png`.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from demo.run import CHARACTER, PRESET, base_model, prepare

HERE = Path(__file__).resolve().parent
WRITTEN = HERE / "pictures"
PROMPTS = ("a zorbit on the left on blue checks", "a zorbit at the top on a background with green stripes")
NAME = "zorbit"
PATIENCE = 900  # s; for a crowded machine
LARGEST = 150_000  # bytes of a picture
CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


@dataclass(frozen=True)
class Look:
    """A window: its size in pixels and its theme."""

    width: int
    height: int
    theme: str


LOOKS = [Look(*size, theme) for size in ((1280, 1040), (390, 1400)) for theme in ("light", "dark")]


def main(argv: list[str] | None = None) -> int:
    """Make the pictures; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m docs.screenshots", description="Make the pictures of these pages.")
    parser.add_argument("--output", type=Path, default=WRITTEN, help="folder for the pictures (default docs/pictures)")
    output: Path = parser.parse_args(argv).output
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lora-demo-") as folder, tab(Path(folder)) as url, sync_playwright() as d:
        browser = d.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for look in LOOKS:
            with window(browser, url, look) as page:
                before(page, Path(folder), look, output)
        with window(browser, url, LOOKS[0]) as page:
            train(page, Path(folder))
            compare(page)
        for look in LOOKS:
            with window(browser, url, look) as page:
                after(page, look, output)
        browser.close()
    return 0


@contextmanager
def tab(folder: Path) -> Iterator[str]:
    """The demo's tab as a process of its own; gives its address."""
    prepare(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["ui", "--checkpoint", str(base_model()), "--output-dir", str(folder), "--port", str(port)]
    process = subprocess.Popen([sys.executable, "-m", "lora_ext", *words], cwd=HERE.parent)
    try:
        _wait_for(port, process)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise RuntimeError("the tab did not start")


@contextmanager
def window(browser: Browser, url: str, look: Look) -> Iterator[Page]:
    """A page of this look with the tab in it."""
    context = browser.new_context(viewport={"width": look.width, "height": look.height}, color_scheme=look.theme)
    page = context.new_page()
    page.set_default_timeout(PATIENCE * 1000)
    page.goto(f"{url}?__theme={look.theme}")
    page.wait_for_selector("#lora_ext_start")
    page.wait_for_selector("[data-slot=chart] > *", state="attached")
    yield page
    context.close()


def before(page: Page, folder: Path, look: Look, output: Path) -> None:
    """Steps 1 and 2, before anything is trained."""
    own_preset(page)
    put(page, "images", folder / CHARACTER)
    step(page, "pictures")
    page.wait_for_selector("#lora_ext_pictures [data-pic=desk]:not([hidden])")
    page.wait_for_function("() => /20/.test(document.querySelector('[data-pic=report]').textContent)")
    page.wait_for_function("() => [...document.querySelectorAll('[data-pic=tiles] img')].every(i => i.naturalWidth)")
    shoot(page, "pictures", look, output)
    step(page, "goal")
    page.check("[name=lora_ext_goal_choice][value=character]")
    page.wait_for_selector(".lora-ext-why li")
    settled(page, ".lora-ext-forecast")
    page.wait_for_selector(".lora-ext-forecast:not(.lora-ext-stale)")
    shoot(page, "goal", look, output)


def train(page: Page, folder: Path) -> None:
    """A whole run with the demo's preset."""
    own_preset(page)
    prompts = "\n".join(reversed(PROMPTS))  # the panel shows what was painted last
    values = {"images": folder / CHARACTER, "output": NAME, "preview_prompt": prompts}
    for name, value in values.items():
        put(page, name, value)
    page.click("#lora_ext_start")
    page.wait_for_selector(".lora-ext-panel[data-state=done]")


def compare(page: Page) -> None:
    """A sheet of what the run saved, in the size of the demo's model."""
    step(page, "choose")
    page.wait_for_selector("[data-choose=form]:not([hidden])")
    page.locator("[data-field=prompts] textarea").fill("\n".join(PROMPTS))
    page.click(".lora-ext-choose-more summary")
    for name in ("width", "height"):
        page.locator(f"#lora_ext_choose [data-field={name}] input").fill("64")
    page.click("[data-choose=make]")
    page.wait_for_selector("[data-choose=keep]:not([hidden])")


def after(page: Page, look: Look, output: Path) -> None:
    """Steps 3 and 4, when the run is done and the sheet is made."""
    step(page, "train")
    page.wait_for_selector("[data-train=loss] svg")
    page.wait_for_selector("[data-train=previews] img")
    loaded(page, "[data-train=previews]")
    shoot(page, "train", look, output)
    step(page, "choose")
    page.wait_for_selector("[data-choose=table] img")
    loaded(page, "[data-choose=table]")
    page.locator("[data-choose=table]").scroll_into_view_if_needed()
    shoot(page, "choose", look, output)


def own_preset(page: Page) -> None:
    """Take the demo's own preset in step 2."""
    step(page, "goal")
    own = page.locator(".lora-ext-own")
    own.locator("summary").click()
    own.locator("select").select_option(PRESET)
    own.get_by_role("button", name="Use", exact=True).click()
    page.wait_for_function("() => document.querySelector('#lora_ext_field_resolution input').value === '64'")
    own.locator("summary").click()


def step(page: Page, name: str) -> None:
    """Open a step."""
    page.click(f"#lora_ext_step_{name}-button")
    page.wait_for_selector(f"#lora_ext_step_{name}", state="visible")


def put(page: Page, name: str, value: object) -> None:
    """Write into a field of step 1 or 2."""
    step(page, "pictures" if name == "images" else "goal")
    box = page.locator(f"#lora_ext_field_{name}").locator("input, textarea").first
    box.fill(str(value))
    box.press("Tab")


def loaded(page: Page, within: str) -> None:
    """Wait for the pictures in an element."""
    script = "at => [...document.querySelectorAll(`${at} img`)].every(i => i.complete && i.naturalWidth)"
    page.wait_for_function(script, arg=within)


def settled(page: Page, at: str) -> None:
    """Wait until an element says the same for two seconds."""
    said, since = "", time.monotonic()
    while time.monotonic() - since < 2:
        page.wait_for_timeout(200)
        now = page.locator(at).first.inner_text()
        if now != said:
            said, since = now, time.monotonic()


def shoot(page: Page, name: str, look: Look, output: Path) -> None:
    """Write what the window shows, in as many colours as the size allows."""
    page.wait_for_timeout(500)  # a button's colour fades
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    path = output / f"{name}-{look.width}-{look.theme}.png"
    for colours in (256, 192, 128, 112, 96, 80, 64, 48, 32):
        picture.quantize(colours).save(path, optimize=True)
        if path.stat().st_size < LARGEST:
            break
    print(f"{path} {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    sys.exit(main())
