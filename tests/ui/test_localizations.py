"""Every language has every text, and says the same with the same values in it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from texts import ROOT, texts

from lora_ext.ui.page import LANGUAGES

FOLDER = ROOT / "localizations"
TABLES = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.json"))}
EVERY = texts()

SAID = {
    "There is no such folder; got /a. B c. Check the spelling.": "没有这个文件夹；得到：/a. B c。 请检查拼写。",
    "Rank is out of range; expected 1 to 1024; got 0.": "秩 超出范围；应为：1 to 1024；得到：0。",
    "12x20 px is too small, expected at least 16 px on each side": "12x20 像素太小；应为：每边至少 16 像素",
    "Without caption: a.png, b.png and 7 more (9 in all).": "没有说明：a.png, b.png 以及另外 7 个（共 9 个）。",
    "Another checkpoint was loaded during the pause. Start again.": "暂停期间加载了另一个模型。 请重新开始。",
    "Nobody knows this one; got 3. Check the spelling.": "Nobody knows this one; got 3. 请检查拼写。",
}
"""What the server says, and the page makes of it."""


def slots(text: str) -> list[str]:
    return sorted(re.findall(r"\{\d\}", text))


def test_there_are_the_languages_that_are_promised():
    assert set(TABLES) == set(LANGUAGES) == {"zh_CN", "zh_TW", "ru_RU", "ja_JP"}


def test_the_texts_are_found_where_they_are_written():
    """One of each kind: a label, a hint with its range, a button, a title, what a script says, a sentence."""
    assert {
        "Learning rate",
        "Pictures read at the same time while preparing. (1 to 64)",
        "Start training",
        "Noise and loss",
        "2 Goal",
        "What shall it learn?",
        "Copy as command line",
        "Min-SNR keeps the learning steady.",
    } <= EVERY


@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_is_left_in_english(language):
    missing = sorted(EVERY - TABLES[language].keys())
    told = f"{FOLDER.name}/{language}.json lacks {len(missing)} texts:\n" + "\n".join(missing)
    assert not missing, told


@pytest.mark.parametrize("language", LANGUAGES)
def test_values_and_flags_are_kept(language):
    for english, told in TABLES[language].items():
        assert slots(english) == slots(told), english
        assert told.strip(), english
        for word in re.findall(r"--[a-z]+|<lora[^>]*>|\[\w+\]|\b[a-z]+_[a-z_]+\b|\b\w+\.\w+\.\w+", english):
            assert word in told, f"{english}: {word}"


def test_only_whole_json_objects_of_texts():
    for path in map(Path, FOLDER.glob("*.json")):
        pairs = json.loads(path.read_text("utf-8"), object_pairs_hook=list)
        assert len({key for key, _ in pairs}) == len(pairs), f"{path.name} says something twice"
        assert all(isinstance(value, str) for _, value in pairs)


def test_the_page_speaks_the_language_of_the_browser(browser, address, stage):
    from tabpage import expect, ready  # it skips loudly where playwright is missing, which is no reason for the rest

    context = browser.new_context(locale="zh-CN", viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.goto(address)
    ready(page)  # gradio's own texts are told before our scripts are there
    expect(page.locator("#lora_ext_start")).to_have_text("开始训练")
    page.evaluate("() => window.loraExt.openStep('lora_ext_step_goal')")
    expect(page.locator(".lora-ext-goals legend")).to_have_text("要学习什么？")
    expect(page.locator("#lora_ext_field_rank")).to_contain_text("LoRA 的大小")
    page.check("[name=lora_ext_goal_choice][value=object]")
    expect(page.locator(".lora-ext-why")).to_contain_text("秩 16 足够学习一件东西")
    expect(page.locator(".lora-ext-why")).to_contain_text("已设置")
    for english, told in SAID.items():
        assert page.evaluate("(text) => window.loraExt.said(text)", english) == told
    page.select_option(".lora-ext-language select", "en")
    expect(page.locator("#lora_ext_start")).to_have_text("Start training")
    context.close()
