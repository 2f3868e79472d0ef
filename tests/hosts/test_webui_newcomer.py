"""Somebody who never trained, in the real WebUI with the demo's model: four steps, then pictures of what was learnt."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from demo_checkpoint import demo_checkpoint
from test_webui_browser import browser, open_step_of, tab
from test_webui_choose import entry
from webui_pages import leave, new_page
from webui_server import Server, pixels, webui_folder

from demo import detectors
from demo.run import CHARACTER, PRESET, prepare

__all__ = ["browser"]  # a fixture

PROMPT = "a zorbit on the left on blue checks"
NAME = "my zorbit"
FILES = 5
"""The preset saves every 40 of 200 steps; the last one is the finished file."""
PATIENCE = 1200
"""Seconds for the training, in a crowd."""


@pytest.fixture(scope="module")
def base(webui_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A WebUI that has only the demo's base."""
    checkpoint = demo_checkpoint(tmp_path_factory.mktemp("base"))
    running = Server(webui_folder(), webui_python, tmp_path_factory.mktemp("webui-newcomer"), [checkpoint])
    yield running
    running.stop()


@pytest.fixture
def page(base: Server, browser):
    page = new_page(browser, viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(300_000)
    page.goto(base.url)
    page.wait_for_selector("#lora_ext_start", state="attached")
    yield page
    leave(page)


def fill(page, name: str, value: object) -> None:
    open_step_of(page, name)
    box = page.locator(f"#lora_ext_field_{name}").locator("input, textarea").first
    box.fill(str(value))
    box.press("Tab")


def train(page, server: Server, folder: Path) -> None:
    """Steps 1 to 3."""
    pictures = prepare(folder)
    shutil.copytree(folder / "training presets", server.loras / "training presets")
    tab(page, "LoRA training")
    fill(page, "images", pictures)
    page.wait_for_function("() => /20/.test(document.querySelector('[data-pic=report]').textContent)")
    page.click("#lora_ext_step_goal-button")
    page.check("[name=lora_ext_goal_choice][value=character]")
    page.locator(".lora-ext-why li", has_text="of your 20 pictures").wait_for()
    own = page.locator(".lora-ext-own")
    own.locator("summary").click()
    own.locator("select").select_option(PRESET)
    own.get_by_role("button", name="Use", exact=True).click()
    page.wait_for_function("() => document.querySelector('#lora_ext_field_resolution input').value === '64'")
    fill(page, "output", CHARACTER)
    fill(page, "preview_prompt", PROMPT)
    page.click("#lora_ext_start")
    page.wait_for_selector(".lora-ext-panel[data-state=done]", timeout=1000 * PATIENCE)


def choose(page) -> None:
    """Step 4: the finished file at full strength is the best."""
    page.click("#lora_ext_step_choose-button")
    ticked = f"() => document.querySelectorAll('.lora-ext-choose-files input:checked').length === {FILES}"
    page.wait_for_function(ticked)
    assert entry(page, "prompts").input_value() == PROMPT
    page.click(".lora-ext-choose-more summary")
    for name, value in {"width": 64, "height": 64, "steps": 10}.items():
        entry(page, name).fill(str(value))
    page.click("#lora_ext_choose [data-choose=make]")
    page.wait_for_selector("#lora_ext_choose [data-choose=keep]")
    cells = page.locator(".lora-ext-sheet-cell")
    assert cells.count() == 3 * FILES
    cells.last.click()
    page.get_by_role("button", name="Choose this one").click()
    page.locator("dialog [data-field=name] input").fill(NAME)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Send to txt2img").click()


def test_pictures_goal_train_choose_and_a_picture(page, base: Server, tmp_path: Path) -> None:
    before = base.get("/probe/model")
    train(page, base, tmp_path)
    choose(page)
    assert base.get("/probe/model") == before, "the model is as it was"
    prompt = page.locator("#txt2img_prompt textarea")
    assert prompt.input_value().strip() == f"<lora:{NAME}:1>"
    prompt.fill(f"{PROMPT} {prompt.input_value()}")
    for name, value in {"width": 64, "height": 64, "batch_size": 4}.items():
        page.locator(f"#txt2img_{name} input[type=number]").fill(str(value))
        page.locator(f"#txt2img_{name} input[type=number]").press("Tab")
    page.click("#txt2img_generate")
    page.wait_for_selector("#txt2img_gallery img[src*='file=']")  # what is shown on the way has no file
    text = prompt.input_value()
    with_it = [detected(base.png(text, seed=seed, steps=20)) for seed in range(4)]
    without = [detected(base.png(PROMPT, seed=seed, steps=20)) for seed in range(4)]
    assert sum(with_it) >= 2 and not any(without), (with_it, without)


def detected(png: bytes) -> bool:
    """Whether a picture shows the character."""
    return detectors.shows(CHARACTER, pixels(png).astype(np.uint8))
