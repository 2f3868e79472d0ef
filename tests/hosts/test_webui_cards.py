"""Our cards in the real WebUI's Extra Networks panel, in a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from library_files import NASTY, RIGHT_TO_LEFT, SCRIPT, fill
from webui_pages import leave, new_page
from webui_server import Server

CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
CARDS = "#txt2img_lora_cards .card"
REFRESH = "#txt2img_lora_extra_refresh_internal"
CAT = "animals/cat"
WAIT = 120_000  # ms


@pytest.fixture(scope="module")
def loras(server: Server) -> Path:
    """The server's folder, filled as somebody might have it."""
    server.load("sd1.safetensors")
    fill(server.loras)
    server.post("/sdapi/v1/refresh-loras", {})
    return server.loras


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    api = pytest.importorskip("playwright.sync_api", reason="NOT TESTED IN A BROWSER: playwright is not installed")
    with api.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)  # None: playwright's own
        yield running
        running.close()


@pytest.fixture(scope="module")
def page(browser, server: Server, loras: Path):
    """One page for all: it takes long to open."""
    opened = open_page(browser, server)
    wait_for_card(opened, CAT)  # another page may have been opened before the files were there
    yield opened
    leave(opened)
    assert not opened.crashes


def open_page(browser, server: Server):
    timed_out = pytest.importorskip("playwright.sync_api").TimeoutError
    page = new_page(browser, viewport={"width": 1400, "height": 1000}, permissions=["clipboard-write"])
    page.set_default_timeout(WAIT)
    page.crashes = []
    page.on("pageerror", lambda e: page.crashes.append(e.stack) if "lora_ext" in (e.stack or "") else None)
    page.goto(server.url, wait_until="domcontentloaded")
    page.locator("#txt2img_extra_tabs > .tab-nav > button", has_text="Lora").click()
    for wait in (30_000, 30_000, WAIT):
        try:
            page.wait_for_selector(CARDS, state="attached", timeout=wait)
            break
        except timed_out:  # on a busy machine gradio was seen to lose connections while the page opened
            if wait == WAIT:
                raise
            page.evaluate(f"document.querySelector('{REFRESH}').dispatchEvent(new Event('click'))")
    page.wait_for_function("() => 'txt2img_lora' in extraNetworksApplyFilter")  # the host's script is ready
    return page


def wait_for_card(page, name: str) -> None:
    there = f"name => [...document.querySelectorAll('{CARDS}')].some(c => c.dataset.name === name)"
    page.wait_for_function(there, arg=name)


def card(page, name: str):
    """The card of this name; names hold every sign."""
    handle = page.evaluate_handle(
        f"name => [...document.querySelectorAll('{CARDS}')].find(c => c.dataset.name === name)", name
    )
    return handle.as_element()


def names(page, visible: bool = False) -> set[str]:
    only = ":not(.hidden)" if visible else ""
    return set(page.eval_on_selector_all(CARDS + only, "cards => cards.map(c => c.dataset.name)"))


def prompts(page) -> tuple[str, str]:
    return tuple(page.locator(f"#txt2img_{name} textarea").input_value() for name in ("prompt", "neg_prompt"))


def click(page, name: str) -> None:
    card(page, name).evaluate("c => c.click()")


def search(page, text: str) -> set[str]:
    page.evaluate(
        "text => { const box = document.querySelector('#txt2img_lora_extra_search'); box.value = text;"
        " box.dispatchEvent(new Event('input')); }",
        text,
    )
    return names(page, visible=True)


def show(page, name: str) -> None:
    page.evaluate("closePopup()")
    card(page, name).evaluate("c => c.querySelector('.edit-button').click()")
    page.wait_for_function("name => document.querySelector('.lora-ext-window h2')?.textContent === name", arg=name)


def test_one_lora_page_and_every_card_that_fits(page) -> None:
    tabs = page.locator("#txt2img_extra_tabs > .tab-nav > button").all_inner_texts()
    assert sum(tab.strip() == "Lora" for tab in tabs) == 1
    found = names(page)
    assert {CAT, "old/cat", "dog", "ink", "renamed here", "broken", NASTY, RIGHT_TO_LEFT} <= found
    assert "wide" not in found, "a card for SDXL is shown with an SD 1.x checkpoint"
    assert re.search(r"\b[1-9]\d* x SDXL", page.locator("#txt2img_lora_cards_html .lora-ext-foot").inner_text())


def test_a_page_that_is_opened_later_has_what_was_saved_meanwhile(page, browser, server: Server, loras: Path) -> None:
    shutil.copy(loras / "animals" / "dog.safetensors", loras / "saved overnight.safetensors")
    server.post("/sdapi/v1/refresh-loras", {})
    assert "saved overnight" not in names(page)
    later = open_page(browser, server)
    wait_for_card(later, "saved overnight")
    leave(later)
    (loras / "saved overnight.safetensors").unlink()
    server.post("/sdapi/v1/refresh-loras", {})


def test_a_click_puts_in_what_the_user_prefers_and_takes_it_out(page) -> None:
    page.locator("#txt2img_prompt textarea").fill("a (photo) [of] it")
    click(page, CAT)
    assert prompts(page) == ("a (photo) [of] it <lora:mio:0.8> mio cat", " (dog:1)")
    click(page, "dog")
    assert prompts(page)[0].endswith("mio cat <lora:dog:1>")
    click(page, CAT)
    assert prompts(page) == ("a (photo) [of] it <lora:dog:1>", "")
    click(page, "dog")
    assert prompts(page)[0] == "a (photo) [of] it"


def test_strangers_texts_do_nothing(page) -> None:
    for name in (NASTY, RIGHT_TO_LEFT):
        show(page, name)
        click(page, name)
        click(page, name)
    show(page, NASTY)
    assert SCRIPT in page.locator(".lora-ext-window").inner_text()
    assert page.locator(".lora-ext-window img[src='x']").count() == 0
    page.locator(".lora-ext-tags button", has_text="onerror").click()
    card(page, NASTY).evaluate("c => c.querySelector('.metadata-button').click()")
    page.wait_for_selector(".global-popup table")
    page.wait_for_timeout(300)
    assert "owned" not in page.title()


def test_search_by_word_tag_folder_and_model(page) -> None:
    assert search(page, "mio cat") >= {CAT}
    assert CAT in search(page, "sitting") and "dog" not in search(page, "sitting")
    assert search(page, "lora/animals") == {CAT, "dog"}
    found = search(page, "sd1")  # other tests leave files of that family here too
    assert "ink" in found and not found & {CAT, "dog", "broken"}
    buttons = page.locator("#txt2img_lora_dirs button").all_inner_texts()
    assert [b.strip() for b in buttons] == ["all", "animals/", "old/", "styles/"]
    page.locator("#txt2img_lora_dirs button", has_text="styles/").evaluate("b => b.click()")
    page.wait_for_function("() => document.querySelector('#txt2img_lora_extra_search').value === 'styles/'")
    assert names(page, visible=True) == {"ink"}
    assert search(page, "") == names(page)


def test_the_window_tells_and_keeps_notes(page, server: Server, loras: Path) -> None:
    place = loras / "animals" / "cat.json"
    before = json.loads(place.read_text(encoding="utf8"))
    show(page, CAT)
    text = page.locator(".lora-ext-window").inner_text()
    for wanted in ("LoRA (kohya)", "1200 steps, 10 epochs", "AdamW8bit", "12, each 10 times per epoch", "sitting"):
        assert wanted in text
    page.locator(".lora-ext-tags button", has_text="sitting").click()
    page.locator(".lora-ext-field input[type=number]").fill("1.1")
    page.locator(".lora-ext-window button", has_text="Save").click()
    page.wait_for_function("() => document.querySelector('.lora-ext-window [role=status]').textContent === 'Saved.'")
    after = json.loads(place.read_text(encoding="utf8"))
    assert after == {**before, "activation text": "mio cat, sitting", "preferred weight": 1.1}
    page.evaluate("closePopup()")
    page.locator("#txt2img_prompt textarea").fill("")
    page.wait_for_function(
        f"() => [...document.querySelectorAll('{CARDS}')].some(c => c.dataset.words === 'mio cat, sitting')"
    )
    click(page, CAT)
    assert prompts(page)[0] == " <lora:mio:1.1> mio cat, sitting"
    place.write_text(json.dumps(before), encoding="utf8")
    page.locator("#txt2img_prompt textarea").fill("")
    page.locator("#txt2img_neg_prompt textarea").fill("")


def test_hashes_and_the_chart_on_demand(page) -> None:
    show(page, "dog")
    compute = page.locator(".lora-ext-window button", has_text="SHA256")
    if compute.count():  # else it was found out while the WebUI was idle
        compute.click()
    page.wait_for_function("() => document.querySelector('.lora-ext-window').innerText.includes('AutoV2')")
    page.locator(".lora-ext-window button", has_text="Measure").click()
    page.wait_for_selector(".lora-ext-norms svg rect")
    assert page.locator(".lora-ext-norms svg text").first.text_content() == "M00"
    show(page, "broken")
    assert "damaged" in page.locator(".lora-ext-window-bad").first.inner_text()
    page.evaluate("closePopup()")


def test_the_gallerys_picture_becomes_the_cards(page, server: Server, loras: Path) -> None:
    show(page, "old/cat")
    page.locator(".lora-ext-picture button").click()
    page.wait_for_function("() => document.querySelector('.lora-ext-picture p').textContent.includes('no picture')")
    page.evaluate("closePopup()")
    page.locator("#txt2img_extra_tabs > .tab-nav > button", has_text="Generation").click()
    for name, value in {"width": 64, "height": 64, "steps": 1}.items():
        box = page.locator(f"#txt2img_{name} input[type=number]")
        box.fill(str(value))
        box.press("Tab")
    page.click("#txt2img_generate")
    page.wait_for_selector("#txt2img_gallery img", state="attached")
    page.locator("#txt2img_extra_tabs > .tab-nav > button", has_text="Lora").click()
    show(page, "old/cat")
    page.locator(".lora-ext-picture button").click()
    page.wait_for_function("() => document.querySelector('.lora-ext-picture img').src.includes('thumb?filename')")
    assert (loras / "old" / "cat.png").read_bytes().startswith(b"\x89PNG")
    page.wait_for_function(
        f"() => [...document.querySelectorAll('{CARDS}')].find(c => c.dataset.name === 'old/cat').querySelector('img')"
    )
    page.evaluate("closePopup()")


def test_cards_far_down_are_filled_when_they_come_into_sight(page, loras: Path) -> None:
    folder = loras / "many"
    folder.mkdir()
    for number in range(130):
        shutil.copyfile(loras / "animals" / "dog.safetensors", folder / f"many {number:03}.safetensors")
    place = "() => document.querySelectorAll('#txt2img_lora_cards .card').length > 130"
    page.evaluate(f"document.querySelector('{REFRESH}').dispatchEvent(new Event('click'))")
    page.wait_for_function(place)
    later = f"{CARDS}.lora-ext-later"
    count = page.locator(later).count()
    assert 20 < count < len(names(page))
    name = page.locator(later).last.get_attribute("data-name")
    filled = "name => [...document.querySelectorAll('%s')].find(c => c.dataset.name === name).matches('%s')"
    is_whole = filled % (CARDS, ":has(.edit-button):not(.lora-ext-later)")
    assert not page.evaluate(is_whole, name)
    card(page, name).scroll_into_view_if_needed()
    page.wait_for_function(is_whole, arg=name)
    assert search(page, "many 12") == {f"many {number}" for number in range(120, 130)}
    search(page, "")
    shutil.rmtree(folder)
    page.evaluate(f"document.querySelector('{REFRESH}').dispatchEvent(new Event('click'))")
    page.wait_for_function(f"() => !({place})()")


def test_nobody_without_the_pages_key(server: Server, loras: Path) -> None:
    for path in ("info", "notes", "preview", "hashes", "norms"):
        request = urllib.request.Request(
            f"{server.url}/lora-ext/v1/page/card/{path}", json.dumps({"name": "dog"}).encode(), server.headers
        )
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(request, timeout=60)


def test_the_api_lists_and_refreshes(server: Server, loras: Path) -> None:
    listed = {entry["name"]: entry for entry in server.get("/sdapi/v1/loras")}
    assert set(listed[CAT]) == {"name", "alias", "path", "metadata"}
    assert listed[CAT]["alias"] == "mio" and listed[CAT]["metadata"]["ss_dataset_dirs"]["10_cat"]["img_count"] == 12
    shutil.copy(loras / "animals" / "dog.safetensors", loras / "fresh.safetensors")
    server.post("/sdapi/v1/refresh-loras", {})
    assert "fresh" in {entry["name"] for entry in server.get("/sdapi/v1/loras")}
    (loras / "fresh.safetensors").unlink()
    server.post("/sdapi/v1/refresh-loras", {})
    assert "fresh" not in {entry["name"] for entry in server.get("/sdapi/v1/loras")}


def test_pasted_text_finds_a_lora_of_another_name(page, server: Server, loras: Path) -> None:
    text = server.infotext("a <lora:renamed here:0.7>")
    assert "Lora hashes" in text
    page.evaluate("closePopup()")
    page.locator("#txt2img_prompt textarea").fill(text.replace("renamed here", "as it was called"))
    page.locator("#txt2img_tools #paste").click()
    page.wait_for_function(
        "() => document.querySelector('#txt2img_prompt textarea').value === 'a <lora:renamed here:0.7>'"
    )
    page.locator("#txt2img_prompt textarea").fill("")


def test_the_builtins_page_comes_back_when_the_user_wants_it(browser, server: Server, loras: Path) -> None:
    with server.builtin():
        server.reload_ui()
        opened = open_page(browser, server)
        tabs = opened.locator("#txt2img_extra_tabs > .tab-nav > button").all_inner_texts()
        assert sum(tab.strip() == "Lora" for tab in tabs) == 1
        assert opened.locator(f"{CARDS}.lora-ext-card").count() == 0 and opened.locator(CARDS).count() > 3
        leave(opened)
        assert {"dog"} <= {entry["name"] for entry in server.get("/sdapi/v1/loras")}
    server.reload_ui()
    opened = open_page(browser, server)
    assert opened.locator(f"{CARDS}.lora-ext-card").count() > 3
    leave(opened)
