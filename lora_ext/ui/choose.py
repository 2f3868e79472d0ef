"""Step 4: which of the saved files is the best."""

from __future__ import annotations

import gradio as gr

from lora_ext.ui.form import silent
from lora_ext.ui.service import Service

STEP = """
<section class="lora-ext-step" id="lora_ext_choose" aria-label="Choose">
  <p class="lora-ext-lead">What was saved is a card of the Lora page, ready for a prompt.</p>
</section>
""".strip()


def lay(service: Service) -> None:
    """Lay out the step."""
    silent(gr.HTML(STEP, elem_id="lora_ext_choose_box"))
