"""A newcomer's whole way over the demo's own model and pictures: pictures, goal, training, the choice of the best."""

from __future__ import annotations

import json

import pytest
from safetensors import safe_open
from scripted import Workplace
from tabpage import box, expect, panel, put, slot, start, step

from demo.run import CHARACTER, PRESET, base_model, prepare
from lora_ext import api
from lora_ext.api import service as services
from lora_ext.config import CheckpointConfig
from lora_ext.hosts.standalone import StandaloneModel
from lora_ext.training import JobBoard
from lora_ext.training.queue import JobQueue

PROMPT = "a zorbit on the left on blue checks"
PICTURES = 6


@pytest.fixture
def stage(tmp_path, monkeypatch):
    outputs = tmp_path / "loras"
    pictures = prepare(outputs)
    for path in sorted(pictures.iterdir())[2 * PICTURES :]:  # pairs of a picture and its caption
        path.unlink()
    model = StandaloneModel.load(CheckpointConfig(checkpoint=str(base_model()), device="cpu"))
    monkeypatch.setattr(services, "board", JobBoard())
    monkeypatch.setattr(services, "queue", JobQueue())
    saved = []
    service = api.make_service(lambda: model, lambda: outputs, saved.append)
    made = Workplace(service, None, outputs, pictures, saved)
    before = {name: tensor.clone() for name, tensor in model.tensors.items()}
    yield made
    made.end()
    assert all(tensor.equal(before[name]) for name, tensor in model.tensors.items()), "the model is as it was"


def choose_part(page, name):
    return page.locator(f"#lora_ext_choose [data-choose={name}]")


def entry(page, name):
    return page.locator(f"#lora_ext_choose [data-field={name}]").locator("input, textarea, select").first


def look_at_the_pictures(page, stage):
    put(page, "images", stage.pictures)
    expect(page.locator("[data-pic=report]")).to_contain_text(f"{PICTURES} pictures")
    caption = page.locator("[data-pic=caption]")
    expect(caption).to_have_value("a zorbit at the right side on a plain orange background")
    caption.fill("a zorbit on the right on plain orange")
    page.locator("[data-pic=save]").click()
    expect(page.locator("[data-pic=save]")).to_be_disabled()
    assert (stage.pictures / "00.txt").read_text(encoding="utf8").strip() == "a zorbit on the right on plain orange"


def set_the_goal(page):
    step(page, "goal")
    page.check("[name=lora_ext_goal_choice][value=character]")
    expect(page.locator(".lora-ext-why li").first).to_contain_text(f"of your {PICTURES} pictures")
    own = page.locator(".lora-ext-own")
    own.locator("summary").click()
    own.locator("select").select_option(PRESET)
    own.get_by_role("button", name="Use", exact=True).click()
    expect(box(page, "resolution")).to_have_value("64")
    quick = {"max_steps": 6, "save_every_steps": 3, "preview_every": 3, "preview_steps": 2}
    for name, value in {"output": CHARACTER, "preview_prompt": PROMPT, **quick}.items():
        put(page, name, value)


def see_the_run_from_everywhere(page):
    """The panel with Start and Stop stays in sight when a long step is scrolled."""
    page.evaluate("() => window.scrollTo(0, document.body.scrollHeight)")
    page.wait_for_function("() => window.scrollY > 200")
    expect(page.locator("#lora_ext_start")).to_be_in_viewport()


def compare_what_was_saved(page):
    slot(page, "saved").get_by_role("button", name="Which one is the best?").click()
    expect(page.locator("#lora_ext_step_choose-button")).to_be_focused()
    expect(entry(page, "run")).to_have_value(CHARACTER)
    expect(choose_part(page, "files").locator("li")).to_have_count(2)  # the last step is the finished file
    expect(entry(page, "prompts")).to_have_value(PROMPT)
    page.click(".lora-ext-choose-more summary")
    for name, value in {"width": 64, "height": 64, "steps": 2}.items():
        entry(page, name).fill(str(value))
    choose_part(page, "make").click()
    expect(choose_part(page, "keep")).to_be_visible()
    cells = page.locator(".lora-ext-sheet-cell")
    expect(cells).to_have_count(2 * 3)  # two files; without the LoRA, at 0.7 and at 1
    page.wait_for_function("""() => [...document.querySelectorAll(".lora-ext-sheet img")].length === 6 &&
        [...document.querySelectorAll(".lora-ext-sheet img")].every(image => image.naturalWidth)""")
    return cells


def test_from_pictures_to_the_chosen_file(open_page, stage):
    page = open_page()
    look_at_the_pictures(page, stage)
    set_the_goal(page)
    see_the_run_from_everywhere(page)
    start(page)
    expect(panel(page, "done")).to_be_visible(timeout=240_000)
    step(page, "train")
    expect(page.locator("[data-train=previews] img")).to_have_count(2)
    expect(slot(page, "saved")).to_contain_text(f"<lora:{CHARACTER}:0.7>")

    cells = compare_what_was_saved(page)
    cells.nth(2).click()  # step 3 at 0.7
    page.get_by_role("button", name="Choose this one").click()
    page.locator("dialog [data-field=name] input").fill("my zorbit")
    page.locator("dialog [data-field=trigger] input").fill("zorbit")
    page.keyboard.press("Enter")
    expect(choose_part(page, "picked").locator("code")).to_have_text("<lora:my zorbit:0.7>")

    chosen = stage.outputs / "my zorbit.safetensors"
    with safe_open(chosen, "pt") as file:
        assert any(key.endswith("lora_up.weight") and file.get_tensor(key).any() for key in file.keys())  # noqa: SIM118
    card = json.loads(chosen.with_suffix(".json").read_text(encoding="utf8"))
    assert (card["activation text"], card["preferred weight"]) == ("zorbit", 0.7)
    assert chosen.with_suffix(".preview.png").is_file()
    assert not (stage.outputs / f"{CHARACTER}-step000003.safetensors").exists()
    assert (stage.outputs / f"{CHARACTER}.safetensors").exists()
