"""Step 3 in a real browser: the queue, wishes, previews, log, what is offered after a crash, keyboard and phone."""

from __future__ import annotations

import json
import re

import pytest
from tabpage import PHONE, WIDE, expect, fill, panel, put, ready, serious, slot, start, step, wait_for_step

from lora_ext.errors import BadInput, Problem
from lora_ext.training.queue_file import NAME

MANY = 10**5


def part(page, name):
    return page.locator(f"#lora_ext_train [data-train={name}]")


def rows(page):
    return page.locator("#lora_ext_train .lora-ext-queue li:not(.lora-ext-empty)")


def names(page):
    return page.locator("#lora_ext_train .lora-ext-queue b").all_inner_texts()


def press(page, name):
    page.click(f"[data-wish={name}]")


def add(page, stage, name, **more):
    fill(page, stage, output=name, **more)
    page.click("#lora_ext_add")
    expect(page.locator(".lora-ext-said")).to_have_text("Added to the queue.")
    page.wait_for_timeout(150)


def state_of(page):
    return page.locator(".lora-ext-panel").get_attribute("data-state")


def test_all_that_can_be_wished_of_a_run(open_page, stage):
    stage.script.pause = 0.02
    page = open_page()
    fill(page, stage, max_steps=MANY, preview_prompt="a cat", preview_every=MANY)
    step(page, "train")
    start(page)
    wait_for_step(page, 3)
    expect(slot(page, "speed")).to_have_text(re.compile(r"^[\d.]+ it/s$"))
    expect(slot(page, "memory")).to_be_hidden()  # there is no card here
    expect(page.locator("#lora_ext_resume")).to_be_hidden()
    press(page, "save")
    expect(slot(page, "saved")).to_contain_text(re.compile(r"<lora:my cat-step\d+:0.7>"))
    press(page, "preview")
    expect(part(page, "previews").locator("img")).to_have_count(1)
    page.focus("#lora_ext_pause")
    press(page, "pause")
    expect(panel(page, "paused")).to_be_visible()
    expect(slot(page, "state")).to_contain_text("The model is free")
    expect(page.locator("#lora_ext_pause")).to_be_hidden()
    expect(page.locator("#lora_ext_resume")).to_be_focused()  # the focus is not lost with its button
    at = stage.service.snapshot()["step"]
    press(page, "resume")
    wait_for_step(page, at + 1)
    press(page, "abort")
    expect(page.locator("dialog")).to_contain_text("Nothing of it is saved")
    page.keyboard.press("Escape")  # no is no
    expect(page.locator("dialog")).to_have_count(0)
    expect(page.locator("#lora_ext_abort")).to_be_focused()
    assert state_of(page) == "running"
    press(page, "abort")
    page.get_by_role("button", name="Abort, save nothing").click()
    expect(panel(page, "aborted")).to_be_visible()
    expect(page.locator(".lora-ext-steer")).to_be_hidden()
    assert not (stage.outputs / "my cat.safetensors").exists()
    log = part(page, "log")
    for text in ("Caching latents", "paused", "Going on", "saved as my cat-step", "aborted, nothing more was saved"):
        expect(log).to_contain_text(text)


def test_a_queue_is_ordered_and_goes_on_past_a_failure(open_page, stage):
    stage.script.hold.clear()
    page = open_page()
    fill(page, stage, output="now")
    start(page)
    expect(panel(page, "running")).to_be_visible()
    for name in ("b", "c", "d"):
        add(page, stage, name)
    put(page, "output", "c")
    page.click("#lora_ext_add")
    expect(page.locator("#lora_ext_field_output .lora-ext-error")).to_contain_text("in the queue already")
    step(page, "train")
    expect(rows(page)).to_have_count(4)
    page.get_by_role("button", name="Move d up").focus()
    for _ in range(2):
        page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Move d up")).to_be_disabled()
    assert names(page) == ["now", "d", "b", "c"]
    page.get_by_role("button", name="Remove c").click()
    expect(rows(page)).to_have_count(3)
    stage.script.failing = BadInput(Problem("resolution", "pictures are too large"))
    stage.script.hold.set()
    expect(rows(page).nth(0)).to_contain_text("failed")
    stage.script.failing = None
    expect(rows(page).nth(2)).to_contain_text(re.compile("done|failed"))
    assert [run.save.output for run in stage.script.runs] == ["now", "d", "b"]
    expect(rows(page).nth(0)).to_contain_text("Resolution: Pictures are too large.")


def test_previews_lie_over_steps_and_prompts_and_can_be_enlarged(open_page, stage):
    page = open_page()
    step(page, "train")
    values = stage.values(max_steps=40, preview_every=10, preview_prompt="a cat\na <b>dog</b>")
    stage.service.start(values)
    expect(panel(page, "done")).to_be_visible()
    strips = part(page, "previews").locator(".lora-ext-strip")
    expect(strips).to_have_count(2)
    expect(strips.nth(1).locator(".lora-ext-prompt")).to_have_text("a <b>dog</b>")
    expect(strips.nth(0).locator("button")).to_have_count(4)
    page.wait_for_function("() => [...document.querySelectorAll('.lora-ext-cell img')].every(i => i.naturalWidth)")
    strips.nth(0).locator("button").nth(1).focus()
    page.keyboard.press("Enter")
    told = page.locator("dialog [aria-live]")
    expect(told).to_have_text("Step 20 · a cat")
    for key, text in {"ArrowRight": "Step 30 · a cat", "ArrowDown": "Step 30 · a <b>dog</b>"}.items():
        page.keyboard.press(key)
        expect(told).to_have_text(text)
    page.wait_for_function("() => document.querySelector('dialog img').naturalWidth === 256")
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
    expect(strips.nth(0).locator("button").nth(1)).to_be_focused()


def test_charts_tell_their_values(open_page, stage):
    page = open_page()
    step(page, "train")
    stage.service.start(stage.values(max_steps=100))
    expect(panel(page, "done")).to_be_visible()
    loss = part(page, "loss")
    expect(loss.locator("svg")).to_have_attribute("aria-label", re.compile("^Loss from step 0 to 100, now about 0.1"))
    for kind in ("raw", "mean", "held"):
        assert "NaN" not in loss.locator(f".lora-ext-{kind}").get_attribute("d")
    expect(part(page, "rate").locator("svg")).to_have_attribute("aria-label", "Learning rate from step 0 to 100")
    loss.locator("svg").hover(position={"x": 300, "y": 80})
    expect(loss.locator(".lora-ext-read")).to_contain_text(re.compile(r"Step \d+ · Each step: 0\.\d+ · Smoothed: 0\."))
    loss.locator("svg").focus()
    page.keyboard.press("Home")
    expect(loss.locator(".lora-ext-read")).to_contain_text("Step 1 · ")


def test_the_log_can_be_copied(open_page, stage):
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    step(page, "train")
    stage.service.start(stage.values())
    expect(part(page, "log")).to_contain_text("Step 30: done")
    part(page, "copy").click()
    expect(part(page, "copied")).to_have_text("Copied.")
    text = page.evaluate("() => navigator.clipboard.readText()")
    assert "<b>3 pictures</b> have no caption" in text
    assert len(text.splitlines()) == stage.service.snapshot()["lines"]


def test_after_a_crash_the_run_is_offered(open_page, stage):
    jobs = [
        {"id": "aa", "name": "lost", "begun": True, "settings": {**stage.values(), "output": "lost"}},
        {"id": "bb", "name": "next", "begun": False, "settings": {**stage.values(), "output": "next"}},
    ]
    (stage.outputs / NAME).write_text(json.dumps({"version": 1, "jobs": jobs}))
    page = open_page()
    expect(slot(page, "offers")).to_contain_text("lost was broken off before its state was saved.")
    step(page, "train")
    expect(rows(page)).to_have_count(2)
    page.wait_for_timeout(500)
    assert stage.script.runs == [], "nothing starts by itself"
    stage.pictures.rename(stage.pictures.with_name("elsewhere"))
    slot(page, "offers").get_by_role("button", name="Begin again").click()
    expect(slot(page, "told")).to_contain_text("There is no such folder")
    stage.pictures.with_name("elsewhere").rename(stage.pictures)
    slot(page, "offers").get_by_role("button", name="Begin again").click()
    expect(rows(page).nth(0)).to_contain_text("done")
    expect(slot(page, "offers")).to_be_hidden()
    page.get_by_role("button", name="Start the queue").click()
    expect(rows(page).nth(1)).to_contain_text("done")
    assert [run.save.output for run in stage.script.runs] == ["lost", "next"]


def test_a_closed_tab_and_a_cut_network_change_nothing(open_page, stage):
    stage.script.pause = 0.02
    page = open_page()
    fill(page, stage, max_steps=MANY)
    start(page)
    wait_for_step(page, 3)
    page.close()
    at = stage.service.snapshot()["step"]
    page = open_page()
    wait_for_step(page, at)
    step(page, "train")
    page.context.set_offline(True)
    press(page, "stop")
    expect(slot(page, "told")).to_contain_text("nothing was changed")
    expect(panel(page, "lost")).to_be_visible()
    page.context.set_offline(False)
    expect(panel(page, "running")).to_be_visible()
    expect(part(page, "log")).to_contain_text("Caching latents")
    press(page, "stop")
    expect(panel(page, "stopped")).to_be_visible()
    first, *_ = page.locator("[data-train=loss] svg").get_attribute("aria-label").split(" to ")
    assert first == "Loss from step 0"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_no_serious_fault(open_page, stage, dark):
    axe = pytest.importorskip("axe_playwright_python.base", reason="NOT CHECKED: faults for screen readers need axe")
    page = open_page(WIDE if dark else PHONE, dark)
    stage.script.failing = BadInput(Problem("resolution", "pictures are too large"))
    stage.service.start(stage.values(max_steps=60, preview_prompt="a cat", preview_every=10))
    expect(panel(page, "failed")).to_be_visible()
    stage.script.failing = None
    stage.script.pause = 0.02
    stage.service.queue.add(stage.values(output="waits"))
    stage.service.start(stage.values(output="goes", max_steps=MANY, preview_prompt="a cat", preview_every=10))
    page.evaluate(axe.AXE_SCRIPT)
    faults = []
    for one in ("pictures", "goal", "train", "choose"):
        step(page, one)
        if one == "train":
            expect(part(page, "previews").locator("img").first).to_be_visible()
        page.wait_for_timeout(600)
        faults += [f"{one}: {fault}" for fault in serious(page, "#lora_ext")]
    press(page, "abort")
    faults += [f"question: {fault}" for fault in serious(page, "#lora_ext dialog")]
    assert faults == []


def test_a_phone_and_a_keyboard_are_enough(open_page, stage):
    page = open_page(PHONE)
    fill(page, stage, max_steps=MANY)
    stage.script.pause = 0.02
    page.locator("#lora_ext_step_goal-button").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#lora_ext_step_train-button")).to_be_focused()
    expect(page.locator("#lora_ext_step_train-button")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#lora_ext_train")).to_be_visible()
    tab_to(page, "lora_ext_start")
    page.keyboard.press("Enter")
    wait_for_step(page, 2)
    tab_to(page, "lora_ext_pause")
    page.keyboard.press("Enter")
    expect(page.locator("#lora_ext_resume")).to_be_focused()
    page.keyboard.press("Enter")
    expect(panel(page, "running")).to_be_visible()
    tab_to(page, "lora_ext_abort")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Go on training")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(panel(page, "aborted")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.reload()
    ready(page)
    expect(page.locator("#lora_ext_train")).to_be_visible()  # the step that was open


def tab_to(page, wanted):
    for _ in range(60):
        if page.evaluate("document.activeElement.id") == wanted:
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"the keyboard does not reach {wanted}")
