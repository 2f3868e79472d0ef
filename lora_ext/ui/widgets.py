"""Gradio widgets made from the settings: nothing about a setting is said twice."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable

import gradio as gr
from gradio.components import Component

from lora_ext.config import Setting

FIELD_ID = "lora_ext_field_"
"""Start of a field's element id; the page's script finds the place for a message by it."""

ROW = 3
"""Short fields side by side on a wide screen; gradio wraps them on a narrow one."""

TELLING = 200
"""A whole number with a wider range than this does not get it into its hint: the error says it when it matters."""


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
        return gr.Textbox(value=str(setting.default), lines=1, max_lines=3, scale=2, min_width=320, **common)
    return gr.Number(value=setting.default, step=_arrow(setting), min_width=160, **common)


def hint(setting: Setting) -> str:
    """The help line: what the setting does, then range and unit where they tell more."""
    bounds = _bounds(setting)
    text = " ".join(part for part in (setting.help, f"({bounds})" if bounds else "") if part)
    return re.sub("`([^`]*)`", "“\\1”", text)  # only the newest gradio reads markdown here


def rows(settings: Iterable[Setting]) -> list[list[Setting]]:
    """Settings in order, in rows: short ones together, a text alone or with the one short field after it."""
    out: list[list[Setting]] = []
    for s in settings:
        if out and _short(s) and _short(out[-1][0]) and len(out[-1]) < ROW:
            out[-1].append(s)
        else:
            out.append([s])
    for above, below in itertools.pairwise(out):
        if len(below) == 1 and _short(below[0]) and not _short(above[0]) and above[0].section == below[0].section:
            above.append(below.pop())
    return [row for row in out if row]


def raw(value: object) -> object:
    """What a widget holds, as `config.read` wants it: gradio says None for an emptied field."""
    return "" if value is None else value


def _short(setting: Setting) -> bool:
    return setting.type is not str or bool(setting.choices)


def _bounds(s: Setting) -> str:
    if s.minimum is None or s.maximum is None or s.type is not int:
        span = ""
    else:
        span = f"{s.minimum:g} to {s.maximum:g}" if s.multiple or s.maximum <= TELLING else ""
    unit = "" if s.unit in f"{s.label} {s.help}".lower() else s.unit
    text = " ".join(part for part in (span, unit) if part)
    return f"{text}, multiples of {s.multiple}" if s.multiple else text


def _arrow(s: Setting) -> float:
    """What one press of an arrow key adds: a tenth of the usual size for fractions."""
    if s.type is int:
        return s.multiple or 1
    usual = float(s.default) or 1e-4
    return float(10.0 ** (math.floor(math.log10(abs(usual))) - (abs(usual) < 10)))
