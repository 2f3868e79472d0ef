"""The artist's way: the tab in the real WebUI, in a real browser, from pictures to a card that works."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from webui_pages import leave, new_page
from webui_server import Server, apart

CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
CAT = "a photo of a cat"
EVIL = "<lora:<img src=x onerror=window.evil=1 >"


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    api = pytest.importorskip("playwright.sync_api", reason="NOT TESTED IN A BROWSER: playwright is not installed")
    with api.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)  # None: playwright's own
        yield running
        running.close()


@pytest.fixture
def page(browser, server: Server):
    server.load("sd1.safetensors")
    page = new_page(browser, viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(60_000)
    crashes: list[str] = []
    # gradio's own files crash now and then in an untouched WebUI; only ours are to blame here
    page.on("pageerror", lambda crash: crashes.append(crash.stack) if "lora_ext" in (crash.stack or "") else None)
    page.goto(server.url)
    page.wait_for_selector("#lora_ext_start", state="attached")
    yield page
    leave(page)
    assert not crashes


def tab(page, name: str) -> None:
    page.locator("#tabs > .tab-nav > button", has_text=name).first.click()


def fill(page, **values: object) -> None:
    for name, value in values.items():
        box = page.locator(f"#lora_ext_field_{name}").locator("input, textarea").first
        open_step_of(page, name)
        if not box.is_visible():
            page.locator("#lora_ext_more .label-wrap").first.click()
        box.fill(str(value))


def open_step_of(page, name: str) -> None:
    found = "name => document.querySelector(`#lora_ext_field_${name}`).closest('[id^=lora_ext_step_]').id"
    step = page.evaluate(found, name)
    page.evaluate("id => window.loraExt.openStep(id)", step)
    page.wait_for_selector(f"#{step}", state="visible")


def start(page, server: Server, pictures: Path, name: str, **more: object) -> None:
    tab(page, "LoRA training")
    last = server.job()["name"]
    if last:  # the page puts the settings of the last run into the form when it first sees it
        page.wait_for_function(f"() => document.querySelector('#lora_ext_field_output textarea').value === '{last}'")
    wish = {"images": pictures, "output": name, "resolution": 64, "max_steps": 30, "rank": 4, "learning_rate": 0.01}
    fill(page, **{**wish, **more})
    page.click("#lora_ext_start")


def wait_for(page, state: str) -> None:
    page.wait_for_selector(f".lora-ext-panel[data-state={state}]", timeout=300_000)


def test_from_pictures_to_a_card_that_works(page, server: Server, pictures: Path) -> None:
    plain, before = server.png(CAT), server.get("/probe/model")
    tab(page, "txt2img")
    page.locator("#txt2img_extra_tabs > .tab-nav > button", has_text="Lora").click()
    page.wait_for_selector("#txt2img_lora_cards", state="attached")
    assert page.locator("#txt2img_lora_cards .card", has_text="from the tab").count() == 0

    start(page, server, pictures, "from the tab", preview_prompt=CAT, preview_every=15,
          preview_steps=2, preview_width=64, preview_height=64)  # fmt: skip
    page.locator("[data-slot=saved]", has_text="<lora:from the tab:0.7>").wait_for(timeout=300_000)
    wait_for(page, "done")
    page.wait_for_selector("[data-slot=preview] img")
    page.wait_for_selector("[data-slot=chart] svg")

    tab(page, "txt2img")
    card = page.locator("#txt2img_lora_cards .card", has_text="from the tab")
    card.wait_for()  # without a restart, a reload or a click on Refresh
    card.click()
    prompt = page.locator("#txt2img_prompt textarea")
    page.wait_for_function("() => document.querySelector('#txt2img_prompt textarea').value.includes('<lora:')")
    assert prompt.input_value().strip() == "<lora:from the tab:1>"

    after = server.get("/probe/model")
    assert {k for k in before if before[k] != after[k]} == set()
    assert apart(server.png(f"{CAT}<lora:from the tab:0.7>"), plain) > 8
    assert server.png(CAT) == plain


def test_generate_button_with_a_tag(page, server: Server, pictures: Path) -> None:
    if not (server.loras / "from the tab.safetensors").exists():
        server.train("from the tab", pictures)
    tab(page, "txt2img")
    for name, value in {"width": 64, "height": 64, "steps": 4}.items():
        page.locator(f"#txt2img_{name} input[type=number]").fill(str(value))
        page.locator(f"#txt2img_{name} input[type=number]").press("Tab")
    page.locator("#txt2img_prompt textarea").fill(f"{CAT}<lora:from the tab:0.7><lora:missing:1>{EVIL}")
    page.click("#txt2img_generate")
    page.wait_for_selector("#txt2img_gallery img", timeout=300_000)
    page.wait_for_selector("#html_log_txt2img .comments")
    told = page.locator("#html_log_txt2img .comments")
    assert "missing: there is no LoRA of this name" in told.inner_text()
    assert "<img src=x onerror=" in told.inner_text() and told.locator("img").count() == 0, "not escaped"
    assert page.evaluate("() => window.evil === undefined")
    assert "Lora hashes" in page.locator("#html_info_txt2img").last.inner_text()


def test_a_reloaded_page_finds_the_run_and_can_stop_it(page, server: Server, pictures: Path) -> None:
    start(page, server, pictures, "long run", max_steps=100000)
    wait_for(page, "running")
    page.reload()
    page.wait_for_selector("#lora_ext_start", state="attached")
    tab(page, "LoRA training")
    wait_for(page, "running")
    server.wait_for_step(2)
    page.click("#lora_ext_stop")
    wait_for(page, "stopped")
    assert (server.loras / "long run.safetensors").exists()


def test_pause_try_it_in_txt2img_and_go_on(page, server: Server, pictures: Path) -> None:
    before = server.get("/probe/model")
    start(page, server, pictures, "half way", max_steps=100000)
    server.wait_for_step(25)
    page.click("#lora_ext_pause")
    wait_for(page, "paused")
    at = server.job()["step"]
    tag = page.locator("[data-slot=saved] code").inner_text()
    assert tag == f"<lora:half way-step{at:06}:0.7>"
    during = server.get("/probe/model")
    assert {k for k in before if before[k] != during[k]} == set(), "the WebUI has its own model back"
    assert apart(server.png(f"{CAT}{tag}"), server.png(CAT)) > 2  # its lock too, or this would wait for ever
    page.click("#lora_ext_resume")
    wait_for(page, "running")
    server.wait_for_step(at + 2)
    page.click("#lora_ext_abort")
    page.get_by_role("button", name="Abort, save nothing").click()
    wait_for(page, "aborted")
    assert not (server.loras / "half way.safetensors").exists()


def test_errors_stand_at_their_fields(page, server: Server, pictures: Path) -> None:
    start(page, server, pictures / "nowhere", "x")
    message = page.locator("#lora_ext_field_images .lora-ext-error")
    message.wait_for()
    assert "nowhere" in message.inner_text() or "no such" in message.inner_text()
