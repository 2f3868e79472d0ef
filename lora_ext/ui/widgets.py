"""Gradio widgets made from the settings: nothing about a setting is said twice."""

from __future__ import annotations

from collections.abc import Iterable

import gradio as gr
from gradio.components import Component

from lora_ext.config import Setting

FIELD_ID = "lora_ext_field_"
"""Start of a field's element id; the page's script finds the place for a message by it."""

ROW = 3
"""Short fields side by side on a wide screen; gradio wraps them on a narrow one."""


def widget(setting: Setting) -> Component:
    """The input for one setting.

    Ranges are told in the hint and checked by `config.read` alone: gradio would clamp a number in silence or show its
    complaint far from the field.
    """
    common = {"label": setting.label, "info": hint(setting) or None, "elem_id": FIELD_ID + setting.name}
    if setting.type is bool:
        return gr.Checkbox(value=bool(setting.default), **common)
    if setting.choices:
        return gr.Dropdown(choices=list(setting.choices), value=str(setting.default), **common)
    if setting.type is str:
        return gr.Textbox(value=str(setting.default), lines=1, max_lines=3, **common)
    return gr.Number(value=setting.default, min_width=160, **common)


def hint(setting: Setting) -> str:
    """The help line: what the setting does, then its range and unit."""
    bounds = _bounds(setting)
    return " ".join(part for part in (setting.help, f"({bounds})" if bounds else "") if part)


def rows(settings: Iterable[Setting]) -> list[list[Setting]]:
    """Settings in order, broken into rows: text alone, everything short together."""
    out: list[list[Setting]] = []
    for s in settings:
        if out and _short(s) and _short(out[-1][0]) and len(out[-1]) < ROW:
            out[-1].append(s)
        else:
            out.append([s])
    return out


def raw(value: object) -> object:
    """What a widget holds, as `config.read` wants it: gradio says None for an emptied field."""
    return "" if value is None else value


def _short(setting: Setting) -> bool:
    return setting.type is not str or bool(setting.choices)


def _bounds(s: Setting) -> str:
    parts = []
    if s.minimum is not None and s.maximum is not None:
        parts.append(f"{s.minimum:,.10g} to {s.maximum:,.10g}")
    elif s.minimum is not None and s.minimum > 0:
        parts.append(f"at least {s.minimum:g}")
    if s.unit:
        parts.append(s.unit)
    text = " ".join(parts)
    return f"{text}, multiples of {s.multiple}" if s.multiple else text
