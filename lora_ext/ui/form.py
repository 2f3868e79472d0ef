"""A form of settings: widgets in rows, under the titles of their sections."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import gradio as gr
from gradio.components import Component

from lora_ext.config import Setting
from lora_ext.ui.widgets import rows, widget

SECTION_TITLES: Mapping[str, str] = {
    "data": "Pictures",
    "network": "LoRA",
    "text": "Captions",
    "optim": "Learning",
    "memory": "Memory",
    "loss": "Noise and loss",
    "save": "Saving",
    "preview": "Previews",
}

QUIET = {"show_progress": "hidden"} if "hidden" in str(inspect.signature(gr.Button().click)) else {}
"""No spinner over the fields while a click is answered."""

SCRIPT = "js" if "js" in inspect.signature(gr.Button().click).parameters else "_js"
"""What an event calls its script: `_js` in gradio 3, `js` in later versions."""

Fields = dict[str, Component]
"""The input of each setting, by its name."""


def lay_settings(some: Iterable[Setting], fields: Fields) -> None:
    """Make the inputs of some settings, in rows, and note them in `fields`. Call it inside gradio blocks."""
    for row in rows(some):
        with gr.Row():
            for s in row:
                fields[s.name] = widget(s)


def lay_sections(some: Sequence[Setting], fields: Fields) -> None:
    """`lay_settings`, section by section, each under its title."""
    for section, title in SECTION_TITLES.items():
        rest = [s for s in some if s.section == section]
        if rest:
            gr.HTML(f'<h3 class="lora-ext-section">{escape(title)}</h3>')
            lay_settings(rest, fields)


def onward(step: str, text: str) -> None:
    """A button at the foot of a step, that leads to the one after it."""
    button = f'<button type="button" class="lora-ext-button" data-open="lora_ext_step_{step}">{escape(text)}</button>'
    silent(gr.HTML(f'<div class="lora-ext-onward">{button}</div>'))


def silent(component: Component) -> Component:
    """Keep a status box out of the WebUI's saved defaults (it reads this attribute of the component)."""
    component.do_not_save_to_config = True
    return component
