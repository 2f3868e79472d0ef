"""Words for what a test does on the page."""

from __future__ import annotations

import os
import re
import shutil

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="NOT CHECKED: the tab in a browser needs playwright")
expect = playwright.expect
expect.set_options(timeout=60_000)

CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


def ready(page):
    page.wait_for_selector("#lora_ext_start")
    page.wait_for_selector("[data-slot=chart] > *", state="attached")


STEPS = ("pictures", "goal", "train", "choose")


def step(page, name):
    """Open one of the four steps."""
    page.evaluate("id => window.loraExt.openStep(id)", f"lora_ext_step_{name}")
    page.wait_for_selector(f"#lora_ext_step_{name}", state="visible")


def open_step_of(page, name):
    """Open the step in which the field of a setting stands."""
    for one in STEPS:
        if page.locator(f"#lora_ext_step_{one} #lora_ext_field_{name}").count():
            step(page, one)
            return
    step(page, "goal")  # gradio draws what is in a closed accordion when it is opened


def box(page, name):
    return page.locator(f"#lora_ext_field_{name}").locator("input, textarea").first


def message(page, name):
    return page.locator(f"#lora_ext_field_{name} .lora-ext-error")


def slot(page, name):
    return page.locator(f"[data-slot={name}]")


def fill(page, stage, **more):
    for name, value in stage.values(**more).items():
        put(page, name, value)


def put(page, name, value):
    """Write into a field, wherever it is."""
    open_step_of(page, name)
    if not box(page, name).is_visible():
        page.click("#lora_ext_more .label-wrap")
    box(page, name).fill(str(value))


def start(page):
    page.click("#lora_ext_start")


def count(page):
    found = re.search(r"step (\d+) of", slot(page, "count").inner_text())
    return int(found[1]) if found else 0


def wait_for_step(page, step):
    page.wait_for_function(
        f"() => (document.querySelector('[data-slot=count]').textContent.match(/\\d+/) || [0])[0] > {step}"
    )


def panel(page, state):
    return page.locator(f".lora-ext-panel[data-state={state}]")


def serious(page, where):
    """What axe finds there that is serious or worse; its script must be in the page."""
    found = page.evaluate("where => axe.run(where, {resultTypes: ['violations']})", where)
    return [
        f"{v['id']}: {n['html'][:160]}"
        for v in found["violations"]
        if v["impact"] in ("serious", "critical")
        for n in v["nodes"]
    ]
