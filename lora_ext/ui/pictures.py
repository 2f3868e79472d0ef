"""Step 1: the folder of pictures."""

from __future__ import annotations

import gradio as gr

from lora_ext.config import TrainConfig, settings
from lora_ext.ui.form import Fields, lay_settings
from lora_ext.ui.service import Service


def lay(service: Service) -> Fields:
    """Lay out the step; returns the inputs it made."""
    fields: Fields = {}
    gr.HTML('<p class="lora-ext-lead">A LoRA learns from a folder of pictures.</p>')
    lay_settings([settings(TrainConfig)["images"]], fields)
    return fields
