"""The tab: a short form, the rest folded away, and the panel of the running job."""

from __future__ import annotations

import inspect
import json
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from html import escape

import gradio as gr
from gradio.components import Component

from lora_ext.config import Setting, TrainConfig, settings
from lora_ext.errors import BadInput
from lora_ext.ui.panel import panel
from lora_ext.ui.service import ProblemView, Service, view
from lora_ext.ui.widgets import raw, rows, widget

SECTION_TITLES: Mapping[str, str] = {
    "data": "Pictures",
    "network": "LoRA",
    "text": "Captions",
    "optim": "Learning",
    "loss": "Noise and loss",
    "save": "Saving",
    "preview": "Previews",
}

Fields = dict[str, Component]


def build(service: Service) -> gr.Blocks:
    """The training tab. Its state lives in `service`, so any number of pages can show and steer the same run."""
    known = settings(TrainConfig).values()
    with gr.Blocks(analytics_enabled=False) as blocks:
        with gr.Row(elem_id="lora_ext"):
            with gr.Column(scale=3, min_width=320, elem_id="lora_ext_form"):
                gr.HTML(
                    '<p class="lora-ext-lead">Learns from a folder of pictures, on the checkpoint that is loaded.</p>'
                )
                fields = _form(known)
            with gr.Column(scale=2, min_width=320, elem_id="lora_ext_side"):
                with gr.Row(elem_id="lora_ext_buttons"):
                    start = gr.Button("Start training", variant="primary", elem_id="lora_ext_start")
                    stop = gr.Button("Stop training", elem_id="lora_ext_stop")
                restore = gr.Button("Show settings of the run", elem_id="lora_ext_restore")
                reply = _silent(gr.HTML(answer(), elem_id="lora_ext_reply"))
                _silent(gr.HTML(panel(service.page_key), elem_id="lora_ext_panel"))
        start.click(_starter(service, fields), inputs=set(fields.values()), outputs=[reply], **QUIET)
        stop.click(_stopper(service), inputs=[], outputs=[reply], **QUIET)
        restore.click(_restorer(service, fields), inputs=[], outputs=list(fields.values()), **QUIET)
    return blocks


QUIET = {"show_progress": "hidden"} if "hidden" in str(inspect.signature(gr.Button().click)) else {}
"""No spinner over the panel while a click is answered."""


def answer(problems: Iterable[ProblemView] = (), error: str = "") -> str:
    """What a click says: a general line, and every problem for the page's script to put beside its field.

    `data-id` is new each time, so that the script sees a second answer that reads like the first.
    """
    listed = list(problems)
    facts = f'data-id="{secrets.token_hex(4)}" data-problems="{escape(json.dumps(listed), quote=True)}"'
    if not listed and not error:
        return f'<div class="lora-ext-reply" {facts}></div>'
    line = error or "Not started. Please look at what is marked in red."
    items = "".join(_item(p) for p in listed)
    return f'<div class="lora-ext-reply lora-ext-bad" role="alert" {facts}><p>{escape(line)}</p><ul>{items}</ul></div>'


def _item(problem: ProblemView) -> str:
    text = f"{problem['label']}: {problem['text']}" if problem["label"] else problem["text"]
    return f'<li data-field="{escape(problem["field"], quote=True)}">{escape(text)}</li>'


def _form(known: Collection[Setting]) -> Fields:
    fields: Fields = {}
    _lay([s for s in known if s.basic], fields)
    with gr.Accordion("More settings", open=False, elem_id="lora_ext_more"):
        _sections([s for s in known if not s.basic and not s.expert], fields)
        with gr.Accordion("Expert settings", open=False, elem_id="lora_ext_expert"):
            _sections([s for s in known if s.expert], fields)
    return fields


def _sections(some: Sequence[Setting], fields: Fields) -> None:
    for section, title in SECTION_TITLES.items():
        rest = [s for s in some if s.section == section]
        if rest:
            gr.HTML(f'<h3 class="lora-ext-section">{escape(title)}</h3>')
            _lay(rest, fields)


def _lay(some: Iterable[Setting], fields: Fields) -> None:
    for row in rows(some):
        with gr.Row():
            for s in row:
                fields[s.name] = widget(s)


def _starter(service: Service, fields: Fields) -> Callable[[dict[Component, object]], str]:
    def start(data: dict[Component, object]) -> str:
        try:
            service.start({name: raw(data[field]) for name, field in fields.items()})
        except BadInput as e:
            return answer(view(p) for p in e.problems)
        except Exception as e:  # the edge: the user must see it, whatever it is
            return answer(error=f"{type(e).__name__}: {e}")
        return answer()

    return start


def _stopper(service: Service) -> Callable[[], str]:
    def stop() -> str:
        service.stop()
        return answer()

    return stop


def _restorer(service: Service, fields: Fields) -> Callable[[], list[object]]:
    def restore() -> list[object]:
        values = service.values() or {}
        return [gr.update(value=values[name]) if name in values else gr.update() for name in fields]

    return restore


def _silent(component: Component) -> Component:
    """Keep a status box out of the WebUI's saved defaults (it reads this attribute of the component)."""
    component.do_not_save_to_config = True
    return component
