"""Step 3: the queue of jobs, the previews, the log. Its content is drawn by the page's script."""

from __future__ import annotations

import gradio as gr

from lora_ext.ui.form import Fields, silent
from lora_ext.ui.service import Service

STEP = """
<section class="lora-ext-step" id="lora_ext_train" aria-label="Training">
  <p class="lora-ext-lead">Start at the side; the run goes on when this page is closed.</p>
</section>
""".strip()


def lay(service: Service, fields: Fields) -> None:
    """Lay out the step."""
    silent(gr.HTML(STEP, elem_id="lora_ext_train_box"))
