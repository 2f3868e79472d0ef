"""The tab in a real browser, over a scripted run: what an artist sees and does."""

from __future__ import annotations

import re

import gradio as gr
import pytest
from tabpage import (
    PHONE,
    STEPS,
    WIDE,
    box,
    count,
    expect,
    fill,
    message,
    open_step_of,
    panel,
    put,
    ready,
    slot,
    start,
    step,
    wait_for_step,
)

from lora_ext.config import TrainConfig, settings
from lora_ext.errors import BadInput, Problem


def opened(page, name):
    return page.locator(f"#lora_ext[data-step=lora_ext_step_{name}]")


def test_a_beginner_sees_the_few_settings(open_page):
    page = open_page()
    basic = [s for s in settings(TrainConfig).values() if s.basic]
    seen = []
    for one in STEPS:
        step(page, one)
        page.wait_for_timeout(100)
        seen += page.locator("[id^=lora_ext_field_]:visible").evaluate_all("all => all.map(e => e.id)")
    assert set(seen) == {f"lora_ext_field_{s.name}" for s in basic}
    expect(slot(page, "state")).to_have_text("Nothing is being trained.")
    expect(page.locator("#lora_ext_stop")).to_be_hidden()
    expect(page.locator("#lora_ext_restore")).to_be_hidden()


def test_errors_stand_at_their_fields(open_page, stage):
    page = open_page()
    put(page, "rank", 0)
    put(page, "batch_size", "")
    step(page, "train")
    start(page)
    expect(message(page, "images")).to_contain_text("is needed")  # its step opens by itself
    expect(box(page, "images")).to_be_focused()
    open_step_of(page, "rank")
    expect(message(page, "output")).to_contain_text("is needed")
    expect(message(page, "rank")).to_contain_text("1 to 1024")
    expect(message(page, "batch_size")).to_contain_text("a whole number")
    expect(page.locator(".lora-ext-error")).to_have_count(4)
    expect(page.locator(".lora-ext-bad")).to_contain_text("Not started")
    assert box(page, "rank").get_attribute("aria-invalid") == "true"
    missing = page.locator(".lora-ext-bad li:visible")
    expect(missing).to_have_text(["Picture folder is needed and was not given."])  # the others are marked in sight
    step(page, "pictures")
    expect(missing).to_have_count(3)
    missing.locator("button", has_text="Rank").click()
    expect(box(page, "rank")).to_be_focused()
    fill(page, stage, rank=4)
    expect(message(page, "images")).to_have_count(0)
    expect(message(page, "rank")).to_have_count(0)
    step(page, "train")
    expect(missing).to_have_count(1)
    put(page, "batch_size", 2)
    expect(page.locator(".lora-ext-bad")).to_have_count(0)
    put(page, "output", "a/b")
    start(page)
    expect(message(page, "output")).to_contain_text("Leave out")
    expect(page.locator(".lora-ext-error")).to_have_count(1)
    put(page, "output", "my cat")
    start(page)
    expect(panel(page, "done")).to_be_visible()
    expect(page.locator(".lora-ext-error")).to_have_count(0)
    expect(page.locator(".lora-ext-bad")).to_have_count(0)


def test_an_accepted_start_leads_to_the_run_where_it_was_pressed(open_page, stage):
    page, other = open_page(), open_page(PHONE)
    step(page, "goal")
    fill(page, stage, output="first")
    start(page)
    expect(opened(page, "train")).to_be_visible()
    expect(slot(other, "state")).to_have_text("first: done.")
    expect(opened(other, "pictures")).to_be_visible()
    fill(other, stage, output="second")
    both = "() => { document.querySelector('#lora_ext_start').click(); document.querySelector('%s').focus(); }"
    other.evaluate(both % "#lora_ext_field_rank input")
    expect(slot(other, "state")).to_have_text("second: done.")
    expect(opened(other, "goal")).to_be_visible()  # somebody goes on writing there
    other.locator("#lora_ext_step_goal .lora-ext-onward button").click()
    expect(opened(other, "train")).to_be_visible()


def test_it_says_that_the_pictures_are_read(open_page, stage):
    page = open_page()
    stage.script.folder.clear()
    fill(page, stage, output="first")
    start(page)
    expect(slot(page, "state")).to_have_text("Reading the pictures…")
    stage.script.folder.set()
    expect(slot(page, "state")).to_have_text("first: done.")
    fill(page, stage, rank=0)
    start(page)
    expect(message(page, "rank")).to_contain_text("1 to 1024")
    expect(slot(page, "state")).to_have_text("first: done.")


def test_it_says_so_no_more_when_gradio_itself_refuses(open_page, stage, monkeypatch):
    page = open_page()
    fill(page, stage, output="first")

    def refuse(self, value):
        stage.script.folder.wait(60)
        raise gr.Error("not a number")

    stage.script.folder.clear()
    with monkeypatch.context() as broken:
        broken.setattr(gr.Number, "preprocess", refuse)
        start(page)
        expect(slot(page, "state")).to_have_text("Reading the pictures…")
        stage.script.folder.set()
        expect(slot(page, "state")).to_have_text("Nothing is being trained.")
    start(page)
    expect(slot(page, "state")).to_have_text("first: done.")


def test_each_long_step_ends_with_the_way_on(open_page):
    page = open_page(PHONE)
    page.get_by_role("button", name="Next: Goal").click()
    expect(page.locator("#lora_ext_step_goal-button")).to_be_focused()
    expect(page.locator(".lora-ext-tabs")).to_be_in_viewport()
    page.get_by_role("button", name="Next: Train").click()
    expect(opened(page, "train")).to_be_visible()
    expect(page.locator(".lora-ext-tabs")).to_be_in_viewport()


def test_the_same_mistake_twice_is_told_twice(open_page, stage):
    page = open_page()
    for _ in range(2):
        fill(page, stage, output="a/b")
        expect(message(page, "output")).to_have_count(0)
        start(page)
        expect(message(page, "output")).to_contain_text("Leave out")


def test_a_run_that_fails_names_a_folded_field(open_page, stage):
    stage.script.failing = BadInput(Problem("conv_rank", "this <i>model</i> has no such layers", "0", "4"))
    page = open_page()
    fill(page, stage)
    start(page)
    expect(panel(page, "failed")).to_be_visible()
    step(page, "goal")  # the start led to step 3
    expect(message(page, "conv_rank")).to_be_visible()
    expect(message(page, "conv_rank")).to_contain_text("This <i>model</i> has no such layers")
    expect(slot(page, "problem")).to_contain_text("Convolution rank: This <i>model</i>")
    expect(page.locator("#lora_ext_start")).to_be_enabled()


def test_a_run_is_shown_live(open_page, stage):
    stage.script.pause = 0.03
    page = open_page()
    fill(page, stage, max_steps=200, preview_prompt="a <b>cat</b>", preview_every=20)
    start(page)
    wait_for_step(page, 10)
    first = count(page)
    wait_for_step(page, first)
    assert count(page) > first
    expect(page.locator("#lora_ext_start")).to_be_disabled()
    expect(slot(page, "state")).to_contain_text("Training")
    expect(page.locator("[data-slot=chart] svg path")).to_have_count(2)
    curve = page.locator("[data-slot=chart] .lora-ext-mean").get_attribute("d")
    assert curve.count("L") >= 5
    assert "NaN" not in curve
    expect(page.locator("[data-slot=preview] img")).to_be_visible()
    page.wait_for_function("() => document.querySelector('[data-slot=preview] img').naturalWidth === 256")
    expect(page.locator("[data-slot=preview] figcaption")).to_contain_text("a <b>cat</b>")
    expect(slot(page, "notices")).to_contain_text("<b>3 pictures</b> have no caption")
    expect(slot(page, "left")).to_have_text(re.compile(r"^\d+ s$"))
    expect(slot(page, "rate")).to_have_text("1e-4")
    expect(slot(page, "epoch")).to_have_text(re.compile(r"^\d+ of 10$"))
    expect(panel(page, "done")).to_be_visible()
    expect(slot(page, "saved")).to_contain_text("<lora:my cat:0.7>")
    expect(slot(page, "count")).to_have_text("step 200 of 200")
    expect(page.locator("#lora_ext_start")).to_be_enabled()


def test_a_reload_and_a_second_page_show_the_same_run(open_page, stage):
    stage.script.pause = 0.05
    page = open_page()
    fill(page, stage, max_steps=2000, rank=7)
    put(page, "seed", 1234)
    start(page)
    wait_for_step(page, 5)
    page.reload()
    ready(page)
    wait_for_step(page, 10)
    expect(box(page, "images")).to_have_value(str(stage.pictures))
    expect(box(page, "rank")).to_have_value("7")
    open_step_of(page, "seed")
    page.click("#lora_ext_more .label-wrap")
    expect(box(page, "seed")).to_have_value("1234")
    other = open_page(PHONE)
    wait_for_step(other, 10)
    whole = stage.service.snapshot()["losses"][0][0]
    assert whole == 1
    expect(other.locator("[data-slot=chart] svg")).to_have_attribute("aria-label", re.compile("^Loss from step 0 "))
    other.click("#lora_ext_stop")
    expect(panel(other, "stopped")).to_be_visible()
    expect(panel(page, "stopped")).to_be_visible()
    expect(slot(page, "saved")).to_contain_text("<lora:my cat:0.7>")
    assert (stage.outputs / "my cat.safetensors").exists()
    # A new run, begun on one page, replaces the old one on the other, without the old curve.
    stage.script.pause = 0.001
    put(other, "max_steps", 40)
    put(other, "output", "second")
    start(other)
    expect(slot(page, "state")).to_have_text("second: done.")
    expect(page.locator("[data-slot=chart] svg")).to_have_attribute("aria-label", re.compile("to 40, "))


def test_losing_the_server_is_told(open_page, stage):
    page = open_page()
    page.route("**/lora-ext/v1/page/job*", lambda route: route.abort())
    expect(slot(page, "state")).to_contain_text("No connection")
    page.wait_for_timeout(1500)  # it must stay: what was known before is drawn again and again
    assert "No connection" in slot(page, "state").inner_text()
    page.unroute("**/lora-ext/v1/page/job*")
    expect(slot(page, "state")).to_have_text("Nothing is being trained.")


def luminance(color):
    parts = [float(p) / 255 for p in re.findall(r"[\d.]+", color)[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


GROUND = """e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (!/, 0\\)$/.test(c)) return c; } return "rgb(255, 255, 255)"; }"""


def contrast(locator):
    ink = luminance(locator.evaluate("e => getComputedStyle(e).color"))
    ground = luminance(locator.evaluate(GROUND))
    return (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_it_fits_and_can_be_read(open_page, stage, size, dark):
    page = open_page(size, dark)
    start(page)
    expect(message(page, "images")).to_be_visible()
    name = "a very long name without any end " + "x" * 80
    fill(page, stage, output=name, preview_prompt="y" * 300, preview_every=10)
    start(page)
    expect(panel(page, "done")).to_be_visible()
    expect(page.locator("[data-slot=preview] img")).to_be_visible()
    start(page)
    expect(message(page, "output")).to_contain_text("already there")
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    right = page.locator("#lora_ext_side").bounding_box()
    left = page.locator("#lora_ext_form").bounding_box()
    beside = right["x"] >= left["x"] + left["width"] - 1
    assert beside is (size is WIDE)
    told = [message(page, "output"), slot(page, "state"), page.locator(".lora-ext-bad p")]
    for text in [*told, page.locator("[data-slot=saved] code")]:
        assert contrast(text) >= 4.5, text
