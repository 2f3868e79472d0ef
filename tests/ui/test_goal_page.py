"""The second step in a browser: a goal sets everything and says why; settings are found, marked and taken back."""

from __future__ import annotations

import json
import re

import pytest
from PIL import Image
from tabpage import PHONE, box, expect, message, put, start, step

from lora_ext.config import TrainConfig, relevant, settings

SETTINGS = settings(TrainConfig)


@pytest.fixture
def folder(stage):
    for n in range(15):
        Image.new("RGB", (64, 64), (n, 40, 90)).save(stage.pictures / f"{n}.png")
    return stage.pictures


@pytest.fixture
def goal_page(open_page, folder):
    def opened(*size):
        page = open_page(*size)
        put(page, "images", folder)
        step(page, "goal")
        page.wait_for_selector(".lora-ext-goals")
        return page

    return opened


def choose(page, goal):
    page.check(f"[name=lora_ext_goal_choice][value={goal}]")
    page.wait_for_selector(".lora-ext-why li")


def forecast(page):
    return page.locator(".lora-ext-forecast")


def everything(page):
    page.click("#lora_ext_more .label-wrap")
    page.click(".lora-ext-finder [data-view=all]")


def seen(page, within="#lora_ext_more"):
    found = page.locator(f"{within} [id^=lora_ext_field_]:visible").evaluate_all("all => all.map(e => e.id)")
    return {name.removeprefix("lora_ext_field_") for name in found}


def test_a_goal_sets_everything_and_says_why(goal_page, stage):
    page = goal_page()
    expect(page.locator("[data-goal=model]")).to_contain_text("scripted sd1 (SD 1.x)")
    choose(page, "style")
    expect(page.locator(".lora-ext-why")).to_contain_text("150 epochs of your 15 pictures")
    expect(box(page, "rank")).to_have_value("64")
    expect(box(page, "epochs")).to_have_value("150")
    expect(forecast(page)).to_contain_text("2,250")
    page.check("[name=lora_ext_goal_choice][value=object]")
    expect(box(page, "rank")).to_have_value("16")
    expect(page.locator(".lora-ext-why")).to_contain_text("80 epochs of your 15 pictures, about 1,200 steps.")
    everything(page)
    expect(box(page, "flip")).not_to_be_checked()
    expect(box(page, "noise_offset")).to_have_value("0")
    expect(page.locator("#lora_ext_field_min_snr_gamma input")).to_have_value("5")
    put(page, "output", "my mug")
    put(page, "max_steps", 12)
    start(page)
    stage.wait("done")
    run = stage.service.values()
    assert (run["rank"], run["min_snr_gamma"], run["schedule"], run["max_steps"]) == (16, 5.0, "cosine", 12)


def test_goals_are_chosen_by_keyboard_and_taken_back(goal_page):
    page = goal_page(PHONE)
    page.focus("[name=lora_ext_goal_choice][value=character]")
    page.keyboard.press("Space")
    expect(box(page, "epochs")).to_have_value("100")
    page.keyboard.press("ArrowDown")
    expect(box(page, "rank")).to_have_value("64")
    page.click(".lora-ext-why .lora-ext-back")
    expect(box(page, "rank")).to_have_value("32")
    expect(page.locator("[name=lora_ext_goal_choice]:checked")).to_have_count(0)


def test_more_pictures_change_what_nobody_changed(goal_page, folder):
    page = goal_page()
    choose(page, "character")
    expect(box(page, "epochs")).to_have_value("100")
    box(page, "rank").fill("24")
    for n in range(15, 30):
        Image.new("RGB", (64, 64)).save(folder / f"{n}.png")
    box(page, "batch_size").fill("3")
    expect(box(page, "epochs")).to_have_value("50")
    expect(box(page, "rank")).to_have_value("24")
    expect(box(page, "batch_size")).to_have_value("3")
    expect(page.locator("#lora_ext_field_rank")).to_have_class(re.compile("lora-ext-changed"))
    page.locator("#lora_ext_field_rank .lora-ext-back").click()
    expect(box(page, "rank")).to_have_value("32")
    expect(page.locator("#lora_ext_field_rank")).not_to_have_class(re.compile("lora-ext-changed"))


def test_the_forecast_follows_the_form_and_names_what_is_wrong(goal_page):
    page = goal_page()
    box(page, "epochs").fill("7")
    expect(forecast(page)).to_contain_text(re.compile(r"Steps\s*105"))
    box(page, "rank").fill("0")
    note = page.locator("#lora_ext_field_rank .lora-ext-advice")
    expect(note).to_contain_text("1 to 1024")
    expect(forecast(page)).to_contain_text("once what is marked is put right")
    box(page, "rank").fill("8")
    expect(note).to_have_count(0)
    expect(forecast(page)).to_contain_text("MB")
    expect(forecast(page)).to_contain_text("cannot be told beforehand")


def test_numbers_of_other_settings_are_marked_while_new_ones_are_worked_out(goal_page):
    page = goal_page()
    expect(forecast(page)).to_contain_text(re.compile(r"Steps\s*\d"))
    held = []

    def hold(route):
        held.append(route)

    page.route("**/page/forecast", hold)
    page.check("[name=lora_ext_goal_choice][value=style]")
    expect(forecast(page)).to_have_class(re.compile("lora-ext-stale"))
    expect(forecast(page)).to_contain_text("Working it out…")
    expect(forecast(page)).to_have_attribute("aria-busy", "true")
    expect(box(page, "epochs")).to_have_value("150")
    page.wait_for_timeout(700)  # whatever was still under way
    expect(forecast(page)).not_to_contain_text("2,250")
    expect(forecast(page)).to_have_class(re.compile("lora-ext-stale"))
    for route in held:
        route.continue_()
    expect(forecast(page)).to_contain_text("2,250")
    expect(forecast(page)).not_to_contain_text("Working it out…")
    expect(forecast(page)).not_to_have_class(re.compile("lora-ext-stale"))


def test_only_settings_that_matter_are_shown_and_all_are_found(goal_page):
    page = goal_page()
    page.click("#lora_ext_more .label-wrap")
    conditions = {name: s.when for name, s in SETTINGS.items()}
    known = {name: s.default for name, s in SETTINGS.items()} | {"family": "sd1", "prediction_type": "epsilon"}
    fold = {n for n, s in SETTINGS.items() if not s.basic}
    page.wait_for_function("() => !document.querySelector('#lora_ext_field_lokr_factor').getClientRects().length")
    assert seen(page) == {n for n in fold if not SETTINGS[n].expert and relevant(n, conditions, known)}
    page.click(".lora-ext-finder [data-view=all]")
    assert seen(page) == fold
    page.click(".lora-ext-finder [data-view=network]")
    assert "lokr_factor" not in seen(page)
    page.locator("#lora_ext_field_kind input").click()
    page.get_by_role("option", name="lokr", exact=True).or_(page.locator("li[data-value=lokr]")).first.click()
    expect(page.locator("#lora_ext_field_lokr_factor")).to_be_visible()
    expect(page.locator("#lora_ext_field_init")).to_be_hidden()
    search = page.locator(".lora-ext-finder input")
    for word, name in (
        ("--huber-c", "huber_c"),
        ("Minimum-SNR", None),
        ("outliers", "loss_type"),
        ("SNR gam", "min_snr_gamma"),
    ):
        search.fill(word)
        page.wait_for_function("w => document.querySelector('.lora-ext-finder input').value === w", arg=word)
        assert (name in seen(page)) if name else not seen(page)
    search.fill("huber-scale")
    expect(page.locator("#lora_ext_field_huber_scale .lora-ext-useless")).to_be_visible()
    expect(page.locator("#lora_ext_field_huber_scale .lora-ext-flag")).to_have_text("--huber-scale")


def test_what_was_set_is_never_hidden_nor_lost(goal_page, stage):
    page = goal_page()
    everything(page)
    box(page, "huber_c").fill("0.2")
    page.click(".lora-ext-finder [data-view=common]")
    expect(page.locator("#lora_ext_field_huber_c")).to_be_visible()
    expect(page.locator("#lora_ext_field_huber_c .lora-ext-useless")).to_be_visible()
    page.click(".lora-ext-finder [data-view=changed]")
    expect(page.locator("#lora_ext_field_huber_c")).to_be_visible()
    put(page, "output", "cat")
    put(page, "max_steps", 5)
    start(page)
    stage.wait("done")
    assert stage.service.values()["huber_c"] == 0.2


def test_a_problem_shows_its_field_whatever_is_searched(goal_page):
    page = goal_page()
    everything(page)
    box(page, "conv_rank").fill("-1")
    page.fill(".lora-ext-finder input", "nothing of that name")
    expect(page.locator("#lora_ext_field_conv_rank")).to_be_hidden()
    put(page, "output", "cat")
    start(page)
    expect(message(page, "conv_rank")).to_be_visible()


def test_own_presets_are_saved_used_and_shared(goal_page, stage, tmp_path):
    page = goal_page()
    box(page, "rank").fill("48")
    own = page.locator(".lora-ext-own")
    own.locator("summary").click()
    own.get_by_label("Name of the preset").fill("Faces <b>")
    own.get_by_role("button", name="Save the settings as a preset").click()
    expect(own.locator("[role=status]")).to_contain_text("cannot be this")
    own.get_by_label("Name of the preset").fill("Faces")
    own.get_by_role("button", name="Save the settings as a preset").click()
    expect(own.locator("[role=status]")).to_contain_text("“Faces” is saved.")
    kept = json.loads((stage.service.presets_folder / "Faces.json").read_text("utf-8"))
    assert kept["settings"]["rank"] == 48
    assert str(stage.pictures) not in json.dumps(kept)
    box(page, "rank").fill("4")
    own.get_by_role("button", name="Use", exact=True).click()
    expect(box(page, "rank")).to_have_value("48")
    expect(page.locator("#lora_ext_field_rank")).not_to_have_class(re.compile("lora-ext-changed"))
    with page.expect_download() as got:
        own.get_by_role("button", name="Share as a file").click()
    shared = tmp_path / "shared.json"
    got.value.save_as(shared)
    raw = json.loads(shared.read_text("utf-8"))
    shared.write_text(json.dumps({**raw, "name": "Theirs", "note": "for <i>you</i>"}), "utf-8")
    own.locator("input[type=file]").set_input_files(shared)
    expect(own.locator("select option")).to_have_count(2)
    shared.write_text(json.dumps({**raw, "settings": {"images": "/etc"}}), "utf-8")
    own.locator("input[type=file]").set_input_files(shared)
    expect(own.locator("[role=status]")).to_contain_text("belongs to one run")


def test_a_settings_file_is_read_and_ours_is_given_out(goal_page, tmp_path):
    page = goal_page()
    page.click("#lora_ext_more .label-wrap")
    files = page.locator(".lora-ext-exchange")
    files.locator("summary").click()
    theirs = tmp_path / "run.toml"
    theirs.write_text(
        'pretrained_model_name_or_path = "x"\nnetwork_dim = 12\nunet_lr = 2e-4\nflow_model = "x"\nlowram = true\n'
        'network_module = "networks.lora"\n'
    )
    files.locator("input[type=file]").set_input_files(theirs)
    expect(files.locator("[role=status]")).to_contain_text("From sd-scripts")
    row = files.locator("tr", has_text="network_dim")
    expect(row).to_contain_text("Rank = 12, now 32")
    expect(files.locator("tr.lora-ext-differs").first).to_have_text(re.compile("now"))
    expect(files.locator("tr").nth(1)).to_have_class(re.compile("lora-ext-differs"))
    expect(files.locator("[role=status]")).to_contain_text("settings would change")
    expect(box(page, "rank")).to_have_value("32")
    files.get_by_role("button", name="Use these settings").click()
    expect(box(page, "rank")).to_have_value("12")
    expect(row).to_have_text(re.compile("Rank = 12$"))
    expect(files.locator("tr.lora-ext-differs")).to_have_count(0)
    files.get_by_role("button", name="Undo").click()
    expect(box(page, "rank")).to_have_value("32")
    box(page, "rank").fill("20")
    with page.expect_download() as got:
        files.get_by_role("button", name="Download as TOML").click()
    assert "rank = 20" in got.value.path().read_text("utf-8")
    files.get_by_role("button", name="Copy as command line").click()
    expect(files.locator("[role=status]")).to_contain_text("train --checkpoint sd1.safetensors")
    expect(files.locator("[role=status]")).to_contain_text("--rank 20")


def test_a_reload_keeps_the_goal(goal_page):
    page = goal_page()
    choose(page, "style")
    page.reload()
    page.wait_for_selector(".lora-ext-goals")
    expect(page.locator("[name=lora_ext_goal_choice][value=style]")).to_be_checked()
    expect(page.locator(".lora-ext-why")).to_contain_text("a style touches everything")
