"""Step 2: what is to be learnt, and how. The goals, the forecast and the search are drawn by the page's script."""

from __future__ import annotations

import json
from collections.abc import Callable
from html import escape

import gradio as gr

from lora_ext.config import Setting, TrainConfig, settings
from lora_ext.ui.form import QUIET, SECTION_TITLES, Fields, lay_settings, silent
from lora_ext.ui.service import Service
from lora_ext.ui.widgets import hint


def lay(service: Service, taken: Fields) -> Fields:
    """Lay out every setting that is not `taken` by another step; returns the inputs."""
    every = settings(TrainConfig)
    known = [s for s in every.values() if s.name not in taken]
    fields: Fields = {}
    silent(gr.HTML(desk(), elem_id="lora_ext_goal"))
    lay_settings([s for s in known if s.basic], fields)
    silent(gr.HTML('<div class="lora-ext-forecast"></div>', elem_id="lora_ext_forecast"))
    with gr.Column(elem_id="lora_ext_more"):
        silent(gr.HTML(_MORE, elem_id="lora_ext_more_head"))
        for section, title in SECTION_TITLES.items():
            rest = [s for s in known if s.section == section and not s.basic]
            with gr.Column(elem_id=f"lora_ext_section_{section}", elem_classes=["lora-ext-group"]):
                gr.HTML(f'<h3 class="lora-ext-section">{escape(title)}</h3>')
                lay_settings(sorted(rest, key=lambda s: s.expert), fields)
        silent(gr.HTML('<div class="lora-ext-exchange"></div>', elem_id="lora_ext_exchange"))
    _carrier({**taken, **fields})
    return fields


def desk() -> str:
    """The place of the goals. `data-settings`: all that the script knows of each setting."""
    facts = escape(json.dumps([_facts(s) for s in settings(TrainConfig).values()]), quote=True)
    return f'<div class="lora-ext-goal" data-settings="{facts}"></div>'


def _facts(s: Setting) -> dict[str, object]:
    return {
        "name": s.name,
        "label": s.label,
        "help": hint(s),
        "flag": "--" + s.name.replace("_", "-"),
        "kind": "choice" if s.choices else s.type.__name__,
        "default": s.default,
        "section": s.section,
        "title": SECTION_TITLES[s.section],
        "basic": s.basic,
        "expert": s.expert,
        "of_run": s.of_run,
        "when": [[{"name": c.name, "values": c.values, "other": c.other} for c in either] for either in s.when],
    }


_MORE = """
<button type="button" class="label-wrap lora-ext-fold" aria-expanded="false">
<span>All settings</span> <span aria-hidden="true" class="lora-ext-arrow">▾</span></button>
<div class="lora-ext-finder"></div>
"""


def _carrier(fields: Fields) -> None:
    """What the script sets fields with: gradio keeps values of its own, so that writing into the page is not enough."""
    with gr.Row(elem_id="lora_ext_carrier"):
        wanted = silent(gr.Textbox(label="Values to set", elem_id="lora_ext_wanted"))
        take = gr.Button("Set values", elem_id="lora_ext_take")
    take.click(_setter(fields), inputs=[wanted], outputs=list(fields.values()), **QUIET)


def _setter(fields: Fields) -> Callable[[str], list[object]]:
    known = settings(TrainConfig)

    def set_values(text: str) -> list[object]:
        """Updates for the fields that are named; values that a field cannot show are left out."""
        try:
            wanted = json.loads(text or "{}")
        except ValueError:
            wanted = {}
        if not isinstance(wanted, dict):
            wanted = {}
        return [_update(known[name], wanted) for name in fields]

    return set_values


def _update(s: Setting, wanted: dict[str, object]) -> object:
    value = wanted.get(s.name)
    if value is None or (s.choices and value not in s.choices):
        return gr.update()
    return gr.update(value=value)
