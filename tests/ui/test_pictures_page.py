"""Step 1 in a real browser: the folder is seen, captions are edited and saved, by mouse and by keyboard."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from tabpage import PHONE, WIDE, box, expect, ready, serious

from lora_ext.api import pictures
from lora_ext.data.editing import Desk


@pytest.fixture(autouse=True)
def folder(stage, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "desk", Desk(lambda: tmp_path / "cache"))
    captions = ("cat, sofa", "cat, tree", "dog, tree, <b>sky</b>", None)
    for n, caption in enumerate(captions):
        (stage.pictures / f"p{n}.png").write_bytes(png(n))
        if caption:
            (stage.pictures / f"p{n}.txt").write_text(caption)
    (stage.pictures / "torn.png").write_bytes(b"no picture")
    return stage.pictures


def png(seed: int) -> bytes:
    low = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(low).resize((700, 600), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def pic(page, name):
    return page.locator(f"[data-pic={name}]")


def tile(page, name):
    return page.locator(f".lora-ext-pic-tile[title='{name}']")


def words(page, name):
    return tile(page, name).locator(".lora-ext-pic-words")


def show(page, folder):
    box(page, "images").fill(str(folder))
    expect(page.locator(".lora-ext-pic-tile")).to_have_count(5)
    expect(page.locator(".lora-ext-pic-tile img")).to_have_count(4)
    expect(pic(page, "report")).not_to_contain_text("…")


def test_the_folder_is_seen(open_page, folder):
    page = open_page()
    expect(pic(page, "report")).to_contain_text("Name a folder")
    box(page, "images").fill("/no/such/folder")
    expect(pic(page, "report")).to_contain_text("There is no such folder")
    show(page, folder)
    expect(pic(page, "report")).to_have_text("5 pictures, 1 unreadable, 1 without caption")
    expect(words(page, "p2.png")).to_have_text("dog, tree, <b>sky</b>")
    expect(tile(page, "p3.png").locator(".lora-ext-pic-mark")).to_have_text(["no caption"])
    expect(tile(page, "p0.png").locator(".lora-ext-pic-size")).to_have_text("700×600 → 576×448")
    tile(page, "p1.png").click()
    expect(pic(page, "facts")).to_contain_text("trained at 576 × 448")
    page.wait_for_function("() => document.querySelector('[data-pic=view] img')?.naturalWidth === 576")
    pic(page, "as-whole").click()
    page.wait_for_function("() => document.querySelector('[data-pic=view] img')?.naturalWidth === 700")
    expect(page.locator(".lora-ext-pic-cut")).to_be_visible()
    page.reload()
    ready(page)
    show(page, folder)


def test_captions_are_edited_undone_and_saved(open_page, folder):
    page = open_page()
    show(page, folder)
    tile(page, "p3.png").click()
    pic(page, "caption").fill("a bird")
    pic(page, "caption").press("Enter")
    expect(words(page, "p3.png")).to_have_text("a bird")
    expect(tile(page, "p3.png")).to_contain_text("not saved")
    expect(pic(page, "save")).to_have_text("Save 1 captions")
    page.locator("[data-pic=chips] button").first.wait_for(state="detached")
    tile(page, "p0.png").click()
    page.locator("[data-pic=chips] button", has_text="sofa").click()
    expect(words(page, "p0.png")).to_have_text("cat")
    expect(pic(page, "caption")).to_have_value("cat")
    page.keyboard.press("Control+z")
    expect(words(page, "p0.png")).to_have_text("cat, sofa")
    page.keyboard.press("Control+y")
    expect(words(page, "p0.png")).to_have_text("cat")
    assert not (folder / "p3.txt").exists()
    page.keyboard.press("Control+s")
    expect(pic(page, "saved")).to_have_text("2 captions saved.")
    assert (folder / "p3.txt").read_text() == "a bird"
    assert (folder / "p0.txt").read_text() == "cat"
    expect(pic(page, "save")).to_be_disabled()
    page.locator("[data-pic=backups-box] summary").click()
    page.locator("[data-pic=backups] button").click()
    expect(words(page, "p0.png")).to_have_text("cat, sofa")
    (folder / "p0.txt").write_text("somebody else")
    pic(page, "save").click()
    expect(pic(page, "conflict-text")).to_contain_text("p0.txt")
    pic(page, "save-theirs").click()
    expect(words(page, "p0.png")).to_have_text("somebody else")
    assert (folder / "p0.txt").read_text() == "somebody else"
    assert not (folder / "p3.txt").exists()


def test_many_captions_at_once(open_page, folder):
    page = open_page()
    show(page, folder)
    page.locator("[data-pic=cloud] button", has_text="tree").click()
    expect(page.locator(".lora-ext-pic-tile")).to_have_count(2)
    page.locator(".lora-ext-pic-tool summary", has_text="Change many captions").click()
    expect(pic(page, "scope")).to_contain_text("the 2 pictures that are shown")
    pic(page, "words").fill("sks, green")
    page.locator("[data-bulk=add_front]").click()
    expect(pic(page, "bulk-said")).to_have_text("2 captions changed.")
    expect(words(page, "p1.png")).to_have_text("sks, green, cat, tree")
    page.locator("[data-pic=cloud] button", has_text="tree").click()
    expect(page.locator(".lora-ext-pic-tile")).to_have_count(5)
    expect(words(page, "p0.png")).to_have_text("cat, sofa")
    pic(page, "find-kind").select_option("replace_pattern")
    pic(page, "find").fill("(")
    pic(page, "do-replace").click()
    expect(page.locator("[data-pic-error=find]")).to_contain_text("cannot be read")
    pic(page, "find").fill(r"\b(cat|dog)\b")
    pic(page, "replace").fill(r"big \1")
    pic(page, "do-replace").click()
    expect(page.locator("[data-pic-error=find]")).to_be_empty()
    expect(words(page, "p0.png")).to_have_text("big cat, sofa")
    pic(page, "undo").click()
    expect(words(page, "p0.png")).to_have_text("cat, sofa")
    tile(page, "p0.png").click()
    tile(page, "p2.png").click(modifiers=["Shift"])
    expect(pic(page, "count")).to_have_text("5 shown, 3 selected")
    page.locator("[data-bulk=sort]").click()
    expect(words(page, "p2.png")).to_have_text("sks, green, tree, dog, <b>sky</b>")


def test_by_keyboard_alone_on_a_phone(open_page, folder):
    page = open_page(PHONE)
    show(page, folder)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    pic(page, "grid").focus()
    page.keyboard.press("ArrowRight")
    expect(pic(page, "name")).to_have_text("p1.png")
    page.keyboard.press("ArrowDown")
    expect(pic(page, "name")).to_have_text("p3.png")
    expect(tile(page, "p3.png")).to_have_class("lora-ext-pic-tile lora-ext-pic-cursor")
    assert pic(page, "grid").get_attribute("aria-activedescendant") == tile(page, "p3.png").get_attribute("id")
    page.keyboard.press(" ")
    expect(tile(page, "p3.png")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Enter")
    page.keyboard.type("typed words")
    page.keyboard.press("Enter")
    expect(words(page, "p3.png")).to_have_text("typed words")
    page.keyboard.press("Home")
    expect(pic(page, "name")).to_have_text("p0.png")
    page.keyboard.press("Control+s")
    expect(pic(page, "saved")).to_have_text("1 caption saved.")
    assert (folder / "p3.txt").read_text() == "typed words"


def test_saving_waits_for_what_was_typed(open_page, folder):
    page = open_page()
    show(page, folder)
    page.evaluate(
        "() => { const plain = window.fetch; window.fetch = async (address, ...more) => {"
        " if (String(address).endsWith('/edit')) await new Promise((go) => setTimeout(go, 700));"
        " return plain(address, ...more); }; }"
    )
    pic(page, "caption").fill("typed words")
    pic(page, "caption").press("Control+s")
    expect(pic(page, "saved")).to_have_text("1 caption saved.")
    assert (folder / "p0.txt").read_text() == "typed words"


def test_files_are_dropped(open_page, folder):
    page = open_page()
    show(page, folder)
    pic(page, "files").set_input_files(
        [
            {"name": "new.png", "mimeType": "image/png", "buffer": png(9)},
            {"name": "p0.png", "mimeType": "image/png", "buffer": png(10)},
            {"name": "evil.exe", "mimeType": "image/png", "buffer": b"MZ"},
        ]
    )
    expect(page.locator(".lora-ext-pic-tile")).to_have_count(7)
    expect(pic(page, "messages")).to_contain_text("evil.exe")
    assert (folder / "p0.png").read_bytes() == png(0)
    assert (folder / "p0 (2).png").read_bytes() == png(10)


def test_two_pages_and_a_start_with_unsaved_captions(open_page, folder):
    page, other = open_page(), open_page()
    show(page, folder)
    show(other, folder)
    tile(page, "p0.png").click()
    pic(page, "caption").fill("from the first page")
    pic(page, "caption").press("Enter")
    expect(words(other, "p0.png")).to_have_text("from the first page")
    asked = []
    other.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    other.click("#lora_ext_start")
    assert asked == ["1 captions are not saved. Training uses what is on disk. Start all the same?"]
    expect(other.locator(".lora-ext-panel[data-state=idle]")).to_be_visible()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_no_serious_fault_among_pictures(open_page, folder, dark):
    axe = pytest.importorskip("axe_playwright_python.base", reason="NOT CHECKED: faults for screen readers need axe")
    page = open_page(WIDE if dark else PHONE, dark)
    show(page, folder)
    tile(page, "p1.png").click()
    expect(pic(page, "facts")).to_contain_text("trained at 576 × 448")
    page.evaluate("document.querySelectorAll('.lora-ext-pic-tool').forEach(one => { one.open = true; })")
    page.evaluate(axe.AXE_SCRIPT)
    page.wait_for_timeout(300)
    assert serious(page, "#lora_ext") == []
