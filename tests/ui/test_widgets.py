"""The form is what `config` says, and nothing a user wrote becomes HTML."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import gradio as gr
import pytest

from lora_ext.config import TrainConfig, settings
from lora_ext.errors import Problem
from lora_ext.ui import build, view
from lora_ext.ui.form import SECTION_TITLES
from lora_ext.ui.panel import panel
from lora_ext.ui.tab import answer
from lora_ext.ui.widgets import FIELD_ID, hint, rows, widget

SETTINGS = settings(TrainConfig)
KINDS = {bool: gr.Checkbox, int: gr.Number, float: gr.Number, str: gr.Textbox}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_widget_says_what_its_setting_says(name):
    setting = SETTINGS[name]
    made = widget(setting)
    assert type(made) is (gr.Dropdown if setting.choices else KINDS[setting.type])
    assert (made.label, made.value, made.elem_id) == (setting.label, setting.default, FIELD_ID + name)
    assert made.info == (hint(setting) or None)
    assert hint(setting).replace("“", "`").replace("”", "`").startswith(setting.help)
    if setting.choices:
        assert [c[0] if isinstance(c, tuple) else c for c in made.choices] == list(setting.choices)


def test_labels_are_unique_and_plain():
    """A WebUI keeps defaults by label, and translates no label that holds an emoji."""
    labels = [s.label for s in SETTINGS.values()]
    assert len(set(labels)) == len(labels)
    assert all(ord(letter) < 0x2190 for label in labels for letter in label)


def test_hints_tell_ranges_where_they_help():
    assert "64 to 4096 px, multiples of 64" in hint(SETTINGS["resolution"])
    assert "0 to 12" in hint(SETTINGS["clip_skip"])
    assert "100000" not in hint(SETTINGS["epochs"])


def test_every_section_has_a_title():
    assert set(SECTION_TITLES) == {s.section for s in SETTINGS.values()}


def test_the_tab_has_every_setting_once(stage):
    tab = build(stage.service)
    ids = [b.elem_id for b in tab.blocks.values() if str(b.elem_id).startswith(FIELD_ID)]
    assert sorted(ids) == sorted(FIELD_ID + name for name in SETTINGS)


def test_rows_keep_order_and_lose_nothing():
    for basic in (True, False):
        some = [s for s in SETTINGS.values() if s.basic is basic]
        laid = rows(some)
        assert [s for row in laid for s in row] == some
        assert max(map(len, laid)) <= 3
    basics = rows([s for s in SETTINGS.values() if s.basic])
    assert [s.name for s in basics[-1]] == ["preview_prompt", "preview_every"]


def test_status_boxes_stay_out_of_the_saved_defaults(stage):
    tab = build(stage.service)
    boxes = [b for b in tab.blocks.values() if b.elem_id in ("lora_ext_reply", "lora_ext_panel")]
    assert len(boxes) == 2
    assert all(b.do_not_save_to_config for b in boxes)


class Elements(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.attributes = [], "", {}
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.update(attrs)

    def handle_data(self, data):
        self.text += data


def test_answers_escape_everything():
    nasty = "<img src=x onerror=alert(1)>\"'&"
    seen = Elements(answer([view(Problem("images", nasty, got=nasty)), view(Problem(nasty, nasty))], error=nasty))
    assert set(seen.tags) == {"div", "p", "ul", "li"}
    assert seen.text.count("<img") == 5
    assert [p["field"] for p in json.loads(seen.attributes["data-problems"])] == ["images", nasty]
    assert 'data-key="&quot;&gt;&lt;"' in panel('"><')


def test_an_answer_is_new_each_time():
    same = [view(Problem("images", "is missing"))]
    assert answer(same) != answer(same)


def test_the_help_line_is_not_said_twice():
    setting = SETTINGS["images"]
    told = view(Problem("images", "Picture folder is needed and was not given", fix=setting.help))
    assert told == {"field": "images", "label": "Picture folder", "text": "Picture folder is needed and was not given."}
