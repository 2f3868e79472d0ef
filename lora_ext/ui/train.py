"""Step 3: the queue of jobs, the charts, the previews, the log. Its content is drawn by the page's script."""

from __future__ import annotations

import gradio as gr

from lora_ext.ui.form import Fields, silent
from lora_ext.ui.service import Service

STEP = """
<div class="lora-ext-train" id="lora_ext_train">
  <section aria-labelledby="lora_ext_queue_title">
    <div class="lora-ext-line-head">
      <h3 id="lora_ext_queue_title">Queue</h3>
      <button type="button" class="lora-ext-button" data-queue="start" hidden>Start the queue</button>
      <button type="button" class="lora-ext-button" data-queue="hold" hidden>Hold the queue</button>
    </div>
    <p class="lora-ext-problem" data-train="trouble" role="alert"></p>
    <ol class="lora-ext-queue" data-train="queue"></ol>
  </section>
  <section aria-labelledby="lora_ext_loss_title">
    <h3 id="lora_ext_loss_title">Loss</h3>
    <p class="lora-ext-legend"><span class="lora-ext-key-raw">Each step</span>
      <span class="lora-ext-key-mean">Smoothed</span> <span class="lora-ext-key-held">Held-out pictures</span></p>
    <div class="lora-ext-plot" data-train="loss"></div>
  </section>
  <section aria-labelledby="lora_ext_rate_title">
    <h3 id="lora_ext_rate_title">Learning rate</h3>
    <div class="lora-ext-plot" data-train="rate"></div>
  </section>
  <section aria-labelledby="lora_ext_previews_title">
    <h3 id="lora_ext_previews_title">Previews</h3>
    <div class="lora-ext-previews" data-train="previews" tabindex="0" role="group"
      aria-labelledby="lora_ext_previews_title"></div>
  </section>
  <section aria-labelledby="lora_ext_log_title">
    <div class="lora-ext-line-head">
      <h3 id="lora_ext_log_title">Log</h3>
      <button type="button" class="lora-ext-button" data-train="copy">Copy the log</button>
      <span class="lora-ext-told" data-train="copied" role="status"></span>
    </div>
    <ol class="lora-ext-log" data-train="log" tabindex="0" aria-labelledby="lora_ext_log_title"></ol>
  </section>
</div>
""".strip()


def lay(service: Service, fields: Fields) -> None:
    """Lay out the step."""
    silent(gr.HTML(STEP, elem_id="lora_ext_train_box"))
