"""The panel of the running job, as HTML whose slots the page's script fills."""

from __future__ import annotations

from html import escape


def panel(page_key: str) -> str:
    """The empty panel. `page_key` lets the script read the job's state (see `Service.page_key`)."""
    return f"""
<div class="lora-ext-panel" data-key="{escape(page_key, quote=True)}" data-state="idle">
  <div class="lora-ext-head">
    <span class="lora-ext-state" data-slot="state" role="status" aria-live="polite">Nothing is being trained.</span>
    <span class="lora-ext-count" data-slot="count"></span>
  </div>
  <div class="lora-ext-bar" role="progressbar" aria-label="Progress" aria-valuemin="0" aria-valuemax="100"
    aria-valuenow="0"><i data-slot="bar"></i></div>
  <div class="lora-ext-steer" role="group" aria-label="The running job" hidden>
    <button type="button" class="lora-ext-button" id="lora_ext_pause" data-wish="pause" hidden>Pause</button>
    <button type="button" class="lora-ext-button" id="lora_ext_resume" data-wish="resume" hidden>Resume</button>
    <button type="button" class="lora-ext-button" id="lora_ext_save" data-wish="save" hidden>Save now</button>
    <button type="button" class="lora-ext-button" id="lora_ext_preview" data-wish="preview" hidden>Preview now</button>
    <button type="button" class="lora-ext-button" id="lora_ext_stop" data-wish="stop" hidden>Stop and keep</button>
    <button type="button" class="lora-ext-button" id="lora_ext_abort" data-wish="abort" hidden>Abort</button>
  </div>
  <p class="lora-ext-told" data-slot="told" role="status"></p>
  <div class="lora-ext-offers" data-slot="offers" role="status"></div>
  <dl class="lora-ext-facts">
    <div><dt>Epoch</dt><dd data-slot="epoch">–</dd></div>
    <div><dt>Loss</dt><dd data-slot="loss">–</dd></div>
    <div><dt>Learning rate</dt><dd data-slot="rate">–</dd></div>
    <div><dt data-slot="clock">Time left</dt><dd data-slot="left">–</dd></div>
    <div><dt>Speed</dt><dd data-slot="speed">–</dd></div>
    <div hidden><dt>Held-out loss</dt><dd data-slot="held"></dd></div>
    <div hidden><dt>VRAM</dt><dd data-slot="memory"></dd></div>
  </dl>
  <div class="lora-ext-problem" data-slot="problem" role="alert"></div>
  <div class="lora-ext-saved" data-slot="saved" aria-live="polite"></div>
  <div class="lora-ext-views">
    <figure class="lora-ext-chart"><figcaption>Loss by step</figcaption><div data-slot="chart"></div></figure>
    <figure class="lora-ext-preview" data-slot="preview"></figure>
  </div>
  <ul class="lora-ext-notices" data-slot="notices" aria-live="polite" aria-label="Notices"></ul>
</div>
""".strip()
