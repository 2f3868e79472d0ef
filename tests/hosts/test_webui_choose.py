"""Step 4 in the real WebUI: saved steps on a sheet, the best one named, sent to txt2img and painted with."""

from __future__ import annotations

from pathlib import Path

from test_webui_browser import CAT, browser, page, start, tab, wait_for
from webui_server import Server, apart

__all__ = ["browser", "page"]  # fixtures

NAME = "the best one"
TAG = f"<lora:{NAME}:1> zxc"


def entry(page, name: str):
    return page.locator(f"#lora_ext_choose [data-field={name}]").locator("input, textarea, select").first


def make_the_sheet(page, **numbers: int) -> None:
    page.click("#lora_ext_step_choose-button")
    page.wait_for_function("() => document.querySelectorAll('.lora-ext-choose-files input:checked').length === 3")
    page.click(".lora-ext-choose-more summary")
    for name, value in numbers.items():
        entry(page, name).fill(str(value))
    page.click("#lora_ext_choose [data-choose=make]")
    page.wait_for_selector("#lora_ext_choose [data-choose=keep]", timeout=300_000)
    page.wait_for_function("() => document.querySelectorAll('.lora-ext-sheet img[src]').length === 9")


def painted(page) -> bytes:
    """Press Generate; the picture."""
    old = "() => document.querySelector('#txt2img_gallery img')?.src ?? ''"
    before = page.evaluate(old)
    page.click("#txt2img_generate")
    page.wait_for_function(f"before => ![before, ''].includes(({old})())", arg=before, timeout=300_000)
    return page.request.get(page.evaluate(old)).body()


def test_from_the_sheet_to_a_picture(page, server: Server, pictures: Path) -> None:
    start(page, server, pictures, "many steps", save_every_steps=10, trigger_words="zxc", preview_prompt=CAT,
          preview_steps=2, preview_width=64, preview_height=64)  # fmt: skip
    wait_for(page, "done")
    before = server.get("/probe/model")
    make_the_sheet(page, width=64, height=64, steps=2)
    assert server.get("/probe/model") == before, "the model is as it was"
    assert entry(page, "run").input_value() == "many steps"
    assert entry(page, "prompts").input_value() == CAT

    page.locator(".lora-ext-sheet-cell").nth(8).click()  # the last step at strength 1
    page.get_by_role("button", name="Choose this one").click()
    page.locator("dialog [data-field=name] input").fill(NAME)
    page.keyboard.press("Enter")
    page.wait_for_selector("#lora_ext_choose [data-choose=picked] code")
    for ending in (".safetensors", ".json", ".preview.png"):
        assert (server.loras / f"{NAME}{ending}").exists()

    tab(page, "txt2img")
    page.locator("#txt2img_prompt textarea").fill(f"{CAT},")
    tab(page, "LoRA training")
    page.get_by_role("button", name="Send to txt2img").click()
    prompt = page.locator("#txt2img_prompt textarea")
    assert prompt.is_visible()
    assert prompt.input_value() == f"{CAT}, {TAG}"
    for name, value in {"width": 64, "height": 64, "steps": 4}.items():
        page.locator(f"#txt2img_{name} input[type=number]").fill(str(value))
        page.locator(f"#txt2img_{name} input[type=number]").press("Tab")
    page.locator("#txt2img_seed input").fill("1")
    page.locator("#txt2img_seed input").press("Tab")
    with_it = painted(page)
    prompt.fill(f"{CAT}, zxc")
    assert apart(with_it, painted(page)) > 8

    page.locator("#txt2img_extra_tabs > .tab-nav > button", has_text="Lora").click()
    card = page.locator("#txt2img_lora_cards .card", has_text=NAME)
    card.scroll_into_view_if_needed()  # among many, those far down are filled when they come into sight
    card.locator("img").first.wait_for(state="attached")
