"""Step 2: what is to be learnt, and how."""

from __future__ import annotations

from collections.abc import Collection

import gradio as gr

from lora_ext.config import TrainConfig, settings
from lora_ext.ui.form import Fields, lay_sections, lay_settings
from lora_ext.ui.service import Service


def lay(service: Service, taken: Collection[str]) -> Fields:
    """Lay out every setting that is not `taken` by another step; returns the inputs."""
    known = [s for s in settings(TrainConfig).values() if s.name not in taken]
    fields: Fields = {}
    gr.HTML('<p class="lora-ext-lead">It learns on the checkpoint that is loaded.</p>')
    lay_settings([s for s in known if s.basic], fields)
    with gr.Accordion("More settings", open=False, elem_id="lora_ext_more"):
        lay_sections([s for s in known if not s.basic and not s.expert], fields)
        with gr.Accordion("Expert settings", open=False, elem_id="lora_ext_expert"):
            lay_sections([s for s in known if s.expert], fields)
    return fields
