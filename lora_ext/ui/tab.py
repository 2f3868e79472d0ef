"""The tab: four steps, and beside them the panel of the running job."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable
from html import escape

import gradio as gr
from gradio.components import Component

from lora_ext.errors import BadInput
from lora_ext.ui import choose, goal, pictures, train
from lora_ext.ui.form import QUIET, SCRIPT, Fields, onward, silent
from lora_ext.ui.panel import panel
from lora_ext.ui.service import ProblemView, Service, view
from lora_ext.ui.widgets import raw


def build(service: Service) -> gr.Blocks:
    """The training tab. Its state lives in `service`, so any number of pages can show and steer the same run."""
    with gr.Blocks(analytics_enabled=False) as blocks:
        with gr.Row(elem_id="lora_ext"):
            with gr.Column(scale=3, min_width=320, elem_id="lora_ext_form"):
                fields = _steps(service)
            with gr.Column(scale=2, min_width=320, elem_id="lora_ext_side"):
                with gr.Row(elem_id="lora_ext_buttons"):
                    start = gr.Button("Start training", variant="primary", elem_id="lora_ext_start")
                    add = gr.Button("Add to queue", elem_id="lora_ext_add")
                restore = gr.Button("Show settings of the run", elem_id="lora_ext_restore")
                reply = silent(gr.HTML(answer(), elem_id="lora_ext_reply"))
                silent(gr.HTML(panel(service.page_key), elem_id="lora_ext_panel"))
        pressed = start.click(_starter(service, fields), inputs=set(fields.values()), outputs=[reply], **QUIET)
        at_last = getattr(pressed, "failure", pressed.then)  # of today's gradio only `failure` is called after one
        at_last(None, None, None, **{SCRIPT: ANSWERED})
        add.click(_adder(service, fields), inputs=set(fields.values()), outputs=[reply], **QUIET)
        restore.click(_restorer(service, fields), inputs=[], outputs=list(fields.values()), **QUIET)
    return blocks


ANSWERED = "() => { window.loraExtReply?.waitNoMore(); }"
"""After gradio's own complaint as after ours: nobody waits for the pictures to be read any more."""


def _steps(service: Service) -> Fields:
    """The four steps; the inputs of all settings, wherever they stand.

    They are columns of which the page's script shows one: gradio's own tabs of today leave out of the page what is in
    a closed one, and a message could not be put beside its field.
    """
    gr.HTML(_tabs(), elem_id="lora_ext_steps")
    with gr.Column(elem_id="lora_ext_step_pictures"):
        fields = pictures.lay(service)
        onward("goal", ONWARD["goal"])
    with gr.Column(elem_id="lora_ext_step_goal"):
        fields = {**fields, **goal.lay(service, fields)}
        onward("train", ONWARD["train"])
    with gr.Column(elem_id="lora_ext_step_train"):
        train.lay(service, fields)
    with gr.Column(elem_id="lora_ext_step_choose"):
        choose.lay(service)
    return fields


STEPS = {"pictures": "1 Pictures", "goal": "2 Goal", "train": "3 Train", "choose": "4 Choose"}
ONWARD = {"goal": "Next: Goal", "train": "Next: Train"}


def _tabs() -> str:
    buttons = "".join(_tab(name, title, first=name == next(iter(STEPS))) for name, title in STEPS.items())
    return f'<div class="lora-ext-tabs" role="tablist" aria-label="Steps">{buttons}</div>'


def _tab(name: str, title: str, first: bool) -> str:
    step, chosen = f"lora_ext_step_{name}", str(first).lower()
    return (
        f'<button type="button" role="tab" id="{step}-button" aria-controls="{step}" aria-selected="{chosen}" '
        f'tabindex="{0 if first else -1}">{title}</button>'
    )


def answer(problems: Iterable[ProblemView] = (), error: str = "", said: str = "", begun: bool = False) -> str:
    """What a click says: a general line, and every problem for the page's script to put beside its field.

    `data-id` is new each time, so that the script sees a second answer that reads like the first. `said` is what is
    told when all is well; `begun` leads the page that asked to the run.
    """
    listed = list(problems)
    facts = f'data-id="{secrets.token_hex(4)}" data-problems="{escape(json.dumps(listed), quote=True)}"'
    if not listed and not error:
        facts += ' data-begun="yes"' if begun else ""
        if not said:
            return f'<div class="lora-ext-reply" {facts}></div>'
        return f'<div class="lora-ext-reply lora-ext-said" role="status" {facts}><p>{escape(said)}</p></div>'
    line = error or "Not started. Please look at what is marked in red."
    items = "".join(_item(p) for p in listed)
    return f'<div class="lora-ext-reply lora-ext-bad" role="alert" {facts}><p>{escape(line)}</p><ul>{items}</ul></div>'


def _item(problem: ProblemView) -> str:
    text = f"{problem['label']}: {problem['text']}" if problem["label"] else problem["text"]
    return f'<li data-field="{escape(problem["field"], quote=True)}">{escape(text)}</li>'


def _starter(service: Service, fields: Fields) -> Callable[[dict[Component, object]], str]:
    def start(data: dict[Component, object]) -> str:
        return _answered(lambda: service.start(_values(data, fields)), begun=True)

    return start


def _adder(service: Service, fields: Fields) -> Callable[[dict[Component, object]], str]:
    def add(data: dict[Component, object]) -> str:
        return _answered(lambda: service.queue.add(_values(data, fields)), "Added to the queue.")

    return add


def _values(data: dict[Component, object], fields: Fields) -> dict[str, object]:
    return {name: raw(data[field]) for name, field in fields.items()}


def _answered(work: Callable[[], object], said: str = "", begun: bool = False) -> str:
    try:
        work()
    except BadInput as e:
        return answer(view(p) for p in e.problems)
    except Exception as e:  # the edge: the user must see it, whatever it is
        return answer(error=f"{type(e).__name__}: {e}")
    return answer(said=said, begun=begun)


def _restorer(service: Service, fields: Fields) -> Callable[[], list[object]]:
    def restore() -> list[object]:
        values = service.values() or {}
        return [gr.update(value=values[name]) if name in values else gr.update() for name in fields]

    return restore
