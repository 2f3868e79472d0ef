"""Step 4 in a real browser, over a scripted back: what is saved, the sheet as it comes, one that is picked."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import pytest
from PIL import Image
from tabpage import PHONE, WIDE, expect, panel, ready, serious, step

BASE = "**/lora-ext/v1/page/"
SIZE = 8 << 20


def saved(run, n, loss):
    final = n is None
    name = f"{run}.safetensors" if final else f"{run}-step{n:06}.safetensors"
    label = "final" if final else f"step {n}"
    known = {"step": 900 if final else n, "loss": loss, "bytes": SIZE, "saved": 1763800000.0, "final": final}
    return {"file": name, "label": label, **known}


def run(name, losses, **more):
    files = [saved(name, 100 * (n + 1), loss) for n, loss in enumerate(losses)]
    known = {"name": name, "family": "sd1", "trigger": "ohwx cat", "prompts": ["a photo of ohwx cat"]}
    return {**known, "strength": None, "size": None, "files": [*files, saved(name, None, None)], **more}


CAT = run("my cat", [0.151, 0.132, 0.121, 0.118, 0.117, 0.114, 0.119, 0.127], size=[640, 384])
OLD = run("old", [], family="sdxl", trigger="", prompts=[], strength=0.6)


@dataclass
class Back:
    """The routes of step 4, as agreed, without a model: the test says how many pictures are made."""

    runs: list = field(default_factory=lambda: [CAT, OLD])
    sheet: dict = field(default_factory=lambda: {"state": "none", "columns": [], "rows": [], "total": 0})
    done: int = 0
    wishes: list = field(default_factory=list)
    picks: list = field(default_factory=list)
    refusals: list = field(default_factory=list)
    asked: list = field(default_factory=list)

    def attach(self, page):
        for path in ("saved", "sheet", "sheet.png", "sheet/**", "pick"):
            page.route(BASE + path, self.answer)

    def answer(self, route):
        request = route.request
        path = request.url.partition("/page/")[2]
        assert request.headers["x-lora-ext-key"], "the page shows that it is the page"
        self.asked.append((request.method, path))
        if request.method == "POST" and self.refusals:
            return route.fulfill(status=422, json={"problems": self.refusals.pop(0)})
        if path.startswith("sheet/") or path == "sheet.png":
            return route.fulfill(body=picture(path), content_type="image/png")
        return route.fulfill(json=getattr(self, f"{request.method.lower()}_{path}")(request))

    def get_saved(self, request):
        return {"runs": self.runs, "running": ""}

    def get_sheet(self, request):
        made = self.sheet["state"] == "done"
        left = 1.5 * (self.sheet["total"] - self.done) if self.done and not made else None
        cells = [cell for cell in self.sheet.get("all", []) if int(cell["id"][2:]) <= self.done]
        return {**self.sheet, "all": None, "done": self.done, "left": left, "error": "", "cells": cells}

    def post_sheet(self, request):
        wish = json.loads(request.post_data)
        self.wishes.append(wish)
        self.sheet, self.done = sheet_of(wish, [f for one in self.runs for f in one["files"]]), 0
        return self.get_sheet(request)

    def delete_sheet(self, request):
        self.sheet["state"] = "cancelled"
        return self.get_sheet(request)

    def post_pick(self, request):
        wish = json.loads(request.post_data)
        self.picks.append(wish)
        name = wish["name"]
        file = {**saved(name, 600, 0.114), "file": f"{name}.safetensors", "label": name}
        gone = wish["others"] == "delete"
        self.runs = [{**CAT, "files": [file] if gone else [*(f for f in CAT["files"] if f["step"] != 600), file]}, OLD]
        tag = f"<lora:{name}:{wish['strength']}>"
        for column in self.sheet["columns"]:
            if column["file"] == wish["file"]:
                column["file"] = file["file"]
        deleted = [PurePosixPath(f["file"]).stem for f in CAT["files"] if gone and f["step"] != 600]
        return {"name": name, "tag": tag, "prompt": f"{tag} {wish['trigger']}", "deleted": deleted}

    def make(self, count):
        self.done = count
        if count == self.sheet["total"]:
            self.sheet["state"] = "done"


def sheet_of(wish, files):
    """Without the LoRA a prompt is painted once, and shown in each column."""
    columns = [{key: f[key] for key in ("file", "label", "step", "loss")} for f in files if f["file"] in wish["files"]]
    seeds = range(wish["seed"], wish["seed"] + wish["pictures"])
    rows = [{"prompt": p, "strength": s, "seed": n} for p in wish["prompts"] for s in wish["strengths"] for n in seeds]
    cells, number = [], 0
    for j, row in enumerate(rows):
        number += not row["strength"]
        for i in range(len(columns)):
            number += bool(row["strength"])
            cells.append({"id": f"a-{number}", "column": i, "row": j})
    return {"state": "running", "columns": columns, "rows": rows, "all": cells, "total": number}


def picture(path):
    number = int((re.search(r"\d+", path) or [0])[0])
    file = io.BytesIO()
    colour = (number * 47 % 256, number * 83 % 256, 120)
    Image.new("RGB", (64, 64) if path.endswith("small") else (256, 256), colour).save(file, "PNG")
    return file.getvalue()


def part(page, name):
    return page.locator(f"#lora_ext_choose [data-choose={name}]")


def entry(page, name):
    return page.locator(f"#lora_ext_choose [data-field={name}]").locator("input, textarea, select").first


def ticked(page, name):
    boxes = part(page, name).locator("input:checked")
    return [PurePosixPath(value).stem for value in boxes.evaluate_all("all => all.map(box => box.value)")]


def cells(page):
    return page.locator(".lora-ext-sheet-cell")


@pytest.fixture
def back():
    return Back()


@pytest.fixture
def choosing(open_page, back):
    def opened(*size, **more):
        page = open_page(*size, **more)
        back.attach(page)
        step(page, "choose")
        expect(part(page, "form")).to_be_visible()
        return page

    return opened


@pytest.fixture
def made(choosing, back):
    """The page with a whole sheet."""

    def opened(*size, **more):
        page = choosing(*size, **more)
        part(page, "make").click()
        expect(part(page, "cancel")).to_be_visible()
        back.make(back.sheet["total"])
        expect(part(page, "keep")).to_be_visible()
        return page

    return opened


def test_what_is_picked_beforehand_makes_sense(choosing, back):
    page = choosing()
    expect(entry(page, "run")).to_have_value("my cat")
    rows = part(page, "files").locator("li")
    expect(rows).to_have_count(9)
    expect(rows.nth(0)).to_contain_text("Step 100")
    expect(rows.nth(5)).to_contain_text("Held-out loss 0.114, the lowest")
    assert len(ticked(page, "files")) == 5
    assert {"my cat", "my cat-step000100", "my cat-step000600"} <= set(ticked(page, "files"))
    expect(entry(page, "prompts")).to_have_value("a photo of ohwx cat")
    expect(entry(page, "width")).to_have_value("640")
    expect(part(page, "count")).to_contain_text("Pictures to make: 11.")
    page.get_by_role("checkbox", name="0.7").uncheck()
    expect(part(page, "count")).to_contain_text("Pictures to make: 6.")
    page.get_by_label("Another strength").fill("0.9")
    page.keyboard.press("Enter")
    expect(part(page, "count")).to_contain_text("Pictures to make: 11.")
    entry(page, "run").select_option("old")
    expect(entry(page, "prompts")).to_have_value("")
    expect(part(page, "make")).to_be_disabled()
    expect(part(page, "count")).to_have_text("Write at least one prompt.")
    expect(entry(page, "height")).to_have_value("1024")
    expect(part(page, "strengths").get_by_label("0.6")).to_be_checked()


def test_a_reload_keeps_what_was_written(choosing, back):
    page = choosing()
    entry(page, "prompts").fill("one\n two")
    page.locator(".lora-ext-choose-more summary").click()
    entry(page, "steps").fill("9")
    part(page, "strengths").locator("input[value='1']").uncheck()
    page.locator(".lora-ext-choose-add").fill("0.65")
    page.locator(".lora-ext-choose-add").press("Enter")
    part(page, "files").locator("input:checked").first.uncheck()
    files = ticked(page, "files")
    page.reload()
    expect(entry(page, "steps")).to_have_value("9")
    expect(entry(page, "prompts")).to_have_value("one\ntwo")
    boxes = part(page, "strengths").locator("input:checked")
    assert boxes.evaluate_all("all => all.map(box => box.value)") == ["0", "0.7", "0.65"]
    assert ticked(page, "files") == files
    entry(page, "run").select_option("old")
    expect(entry(page, "steps")).to_have_value("20")  # of another run: what fits that
    page.reload()
    expect(entry(page, "run")).to_have_value("old")


def test_the_sheet_fills_in_and_is_found_again(choosing, back):
    page = choosing()
    part(page, "make").click()
    expect(part(page, "state")).to_have_text("Picture 1 of 11…")
    assert back.wishes[0] | {"files": []} == {
        "files": [], "strengths": [0, 0.7, 1], "prompts": ["a photo of ohwx cat"], "negative": "",
        "seed": 1, "pictures": 1, "steps": 20, "cfg": 7, "width": 640, "height": 384,
    }  # fmt: skip
    heads = page.locator(".lora-ext-sheet thead th")
    expect(heads).to_have_count(5)
    expect(heads.nth(4)).to_contain_text("Finished")
    expect(cells(page)).to_have_count(15)
    back.make(3)
    expect(part(page, "state")).to_have_text("Picture 4 of 11, about 12 s left…")
    expect(page.locator(".lora-ext-sheet img[src]")).to_have_count(7)  # the base alone in each column, and two more
    page.reload()
    ready(page)
    expect(page.locator(".lora-ext-sheet img[src]")).to_have_count(7)
    part(page, "cancel").click()
    expect(part(page, "state")).to_have_text("Cancelled. 3 of 11 pictures were made.")
    assert not part(page, "cancel").is_visible()
    expect(part(page, "count")).to_have_text(re.compile(r"That takes about 1[67] s\.$"))  # learnt from the first ones
    with page.expect_download() as download:
        part(page, "keep").click()
    assert download.value.suggested_filename.endswith(".png")
    asked = [path for method, path in back.asked if path.startswith("sheet/pictures/")]
    assert len(asked) == len(set(asked)) * 2, "each once, and once more after the reload"


def test_one_picture_large_and_its_neighbours(made, back):
    page = made()
    cells(page).nth(0).focus()
    for key in ("ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    told = page.locator("dialog [aria-live]")
    expect(told).to_have_text(re.compile("^Step 300 · Strength 0.7 · a photo of ohwx cat$"))
    page.wait_for_function("() => document.querySelector('dialog img').naturalWidth === 256")
    for key, text in {"ArrowRight": "Step 600 · Strength 0.7", "ArrowDown": "Step 600 · Strength 1"}.items():
        page.keyboard.press(key)
        expect(told).to_contain_text(text)
    for _ in range(4):
        page.keyboard.press("ArrowUp")
    expect(told).to_contain_text("Step 600 · Without the LoRA")
    expect(page.get_by_role("button", name="Choose this one")).to_be_hidden()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
    expect(cells(page).nth(2)).to_be_focused()


def test_the_best_one_gets_its_name_and_its_tag(made, back):
    page = made(permissions=["clipboard-read", "clipboard-write"])
    cells(page).nth(7).click()  # step 600 at 0.7
    page.get_by_role("button", name="Choose this one").click()
    entry_of = lambda name: page.locator(f"dialog [data-field={name}]").locator("input, textarea")  # noqa: E731
    expect(entry_of("name")).to_have_value("my cat-best")
    expect(entry_of("strength")).to_have_value("0.7")
    taken = "A file of this name is there already."
    back.refusals.append([{"field": "name", "label": "name", "text": taken}])
    page.keyboard.press("Enter")
    expect(page.locator("dialog [data-field=name] .lora-ext-error")).to_have_text(
        "A file of this name is there already."
    )
    expect(entry_of("name")).to_be_focused()
    entry_of("name").fill("Tom")
    expect(page.locator("dialog .lora-ext-error")).to_have_count(0)
    expect(page.locator("dialog li").first).to_be_hidden()
    page.get_by_role("checkbox", name="Delete the other saved steps of this run (8 files, 64.0 MB)").check()
    expect(page.locator("dialog li")).to_have_count(9)  # and which ones stay
    page.get_by_role("button", name="Choose, delete the others").click()
    expect(part(page, "picked").locator("code")).to_have_text("<lora:Tom:0.7>")
    cell = next(one["id"] for one in back.sheet["all"] if (one["column"], one["row"]) == (2, 1))
    assert back.picks == [
        {"file": "my cat-step000600.safetensors", "name": "Tom", "trigger": "ohwx cat", "strength": 0.7,
         "description": "", "cell": cell, "others": "delete"}
    ]  # fmt: skip
    page.keyboard.press("Enter")  # there is no txt2img here
    expect(part(page, "picked")).to_contain_text("Copied.")
    assert page.evaluate("() => navigator.clipboard.readText()") == "<lora:Tom:0.7> ohwx cat"
    expect(part(page, "files").locator("li")).to_have_count(1)
    expect(page.locator(".lora-ext-sheet thead button")).to_have_count(1)  # the other files are gone
    expect(page.get_by_role("columnheader", name="Tom")).to_be_visible()
    expect(part(page, "picked")).to_contain_text("Deleted: my cat-step000100, ")
    expect(page.locator(".lora-ext-sheet img[src]")).to_have_count(15)


PROMPTS = {
    "": "<lora:Tom:0.7> ohwx cat",
    "a house,": "a house, <lora:Tom:0.7> ohwx cat",
    "an ohwx cat on a mat": "an ohwx cat on a mat, <lora:Tom:0.7>",
    "a <lora:my cat-step000600:1> b <lora:Tom:0.2:x=1>, ohwx cat": "a <lora:Tom:0.7> b , ohwx cat",
    "a blohwx cat": "a blohwx cat, <lora:Tom:0.7> ohwx cat",
    "<lora:Tommy:1> ohwx cats": "<lora:Tommy:1> ohwx cats, <lora:Tom:0.7> ohwx cat",
}

TXT2IMG = """() => {
    const home = document.createElement("div");
    home.id = "txt2img_prompt";
    home.append(document.createElement("textarea"));
    document.body.append(home);
    window.switch_to_txt2img = () => { window.switched = true; };
}"""


def test_the_tag_goes_into_the_prompt(made):
    page = made()
    page.evaluate(TXT2IMG)
    page.locator(".lora-ext-sheet thead button").nth(2).click()
    expect(page.locator("dialog [data-field=strength] input")).to_have_value("0.7")  # next to what is usual
    page.locator("dialog [data-field=name] input").fill("Tom")
    page.keyboard.press("Enter")
    prompt = page.locator("#txt2img_prompt textarea")
    for before, after in PROMPTS.items():
        prompt.fill(before)
        page.get_by_role("button", name="Send to txt2img").click()
        assert prompt.input_value() == after
    assert page.evaluate("() => window.switched")


def test_problems_stand_at_their_fields_and_a_run_has_the_model(choosing, back, stage):
    page = choosing()
    text = "A multiple of 8 is needed."
    back.refusals.append([{"field": "width", "label": "width", "text": text}, {"field": "", "text": "No model."}])
    part(page, "make").click()
    expect(page.locator("#lora_ext_choose [data-field=width] .lora-ext-error")).to_have_text(text)
    expect(entry(page, "width")).to_be_focused()  # what was folded away is open
    expect(part(page, "trouble")).to_have_text("No model.")
    stage.script.hold.clear()
    stage.service.start(stage.values(output="new"))
    expect(part(page, "count")).to_contain_text("“new” is being trained.")
    expect(part(page, "make")).to_be_disabled()
    back.runs = [run("new", [0.2]), *back.runs]
    stage.script.hold.set()
    expect(panel(page, "done")).to_be_visible()
    expect(entry(page, "run")).to_have_value("new")
    expect(part(page, "make")).to_be_enabled()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_no_serious_fault(made, back, dark):
    axe = pytest.importorskip("axe_playwright_python.base", reason="NOT CHECKED: faults for screen readers need axe")
    page = made(WIDE if dark else PHONE, dark=dark)
    page.click(".lora-ext-choose-more summary")
    page.evaluate(axe.AXE_SCRIPT)
    faults = serious(page, "#lora_ext")
    assert page.evaluate("document.documentElement.scrollWidth") <= (WIDE if dark else PHONE)["width"]
    cells(page).nth(6).click()
    faults += serious(page, "#lora_ext dialog")
    page.get_by_role("button", name="Choose this one").click()
    page.locator("dialog [type=checkbox]").check()
    faults += serious(page, "#lora_ext dialog")
    page.locator("dialog .lora-ext-choose-go").click()
    expect(part(page, "picked")).to_be_visible()
    faults += serious(page, "#lora_ext_choose")
    assert faults == []
