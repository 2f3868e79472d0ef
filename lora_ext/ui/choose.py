"""Step 4: which of the saved files is the best. Its content is drawn by the page's scripts."""

from __future__ import annotations

import gradio as gr

from lora_ext.ui.form import silent
from lora_ext.ui.service import Service

STEP = """
<div class="lora-ext-choose" id="lora_ext_choose">
  <p class="lora-ext-choose-hint">Which one is best? Have the saved steps paint the same pictures, and see.</p>
  <p class="lora-ext-problem" data-choose="trouble" role="alert"></p>
  <p class="lora-ext-empty" data-choose="none">Nothing is saved yet. What a training saves is compared here.</p>
  <div class="lora-ext-choose-form" data-choose="form" hidden>
    <label class="lora-ext-choose-field" data-field="run"><span>Training run</span>
      <select></select></label>
    <fieldset data-field="files">
      <legend>Saved steps to compare</legend>
      <ul class="lora-ext-choose-files" data-choose="files"></ul>
    </fieldset>
    <fieldset data-field="strengths">
      <legend>Strengths</legend>
      <p class="lora-ext-choose-hint">How much of the LoRA is applied. 0 is the picture without it, to compare with.</p>
      <div class="lora-ext-choose-strengths" data-choose="strengths"></div>
    </fieldset>
    <label class="lora-ext-choose-field" data-field="prompts"><span>Prompts, one per line</span>
      <textarea rows="3"></textarea></label>
    <details class="lora-ext-choose-more">
      <summary>Size, seed and sampling</summary>
      <div class="lora-ext-choose-grid">
        <label class="lora-ext-choose-field lora-ext-choose-wide" data-field="negative"><span>Negative prompt</span>
          <input type="text"></label>
        <label class="lora-ext-choose-field" data-field="width"><span>Width</span>
          <input type="number" min="64" max="2048" step="8" inputmode="numeric"></label>
        <label class="lora-ext-choose-field" data-field="height"><span>Height</span>
          <input type="number" min="64" max="2048" step="8" inputmode="numeric"></label>
        <label class="lora-ext-choose-field" data-field="seed"><span>First seed</span>
          <input type="number" min="0" step="1" inputmode="numeric"></label>
        <label class="lora-ext-choose-field" data-field="pictures"><span>Seeds per prompt</span>
          <input type="number" min="1" step="1" inputmode="numeric"></label>
        <label class="lora-ext-choose-field" data-field="steps"><span>Sampling steps</span>
          <input type="number" min="1" step="1" inputmode="numeric"></label>
        <label class="lora-ext-choose-field" data-field="cfg"><span>CFG scale</span>
          <input type="number" min="1" step="0.5" inputmode="decimal"></label>
      </div>
    </details>
    <div class="lora-ext-choose-line">
      <button type="button" class="lora-ext-button lora-ext-choose-go" data-choose="make">Make the sheet</button>
      <p class="lora-ext-choose-hint" data-choose="count" role="status"></p>
    </div>
  </div>
  <section class="lora-ext-choose-picked" data-choose="picked" aria-label="The chosen LoRA" hidden></section>
  <section class="lora-ext-choose-made" data-choose="made" aria-label="The sheet" hidden>
    <div class="lora-ext-choose-line">
      <p class="lora-ext-choose-state" data-choose="state" role="status"></p>
      <button type="button" class="lora-ext-button" data-choose="cancel" hidden>Cancel</button>
      <button type="button" class="lora-ext-button" data-choose="keep" hidden>Save the sheet as a picture</button>
    </div>
    <div class="lora-ext-bar" role="progressbar" aria-label="Pictures of the sheet" aria-valuemin="0"
      aria-valuemax="100" aria-valuenow="0" data-choose="bar"><i></i></div>
    <p class="lora-ext-problem" data-choose="failure" role="alert"></p>
    <div class="lora-ext-sheet" data-choose="table" tabindex="0" role="group" aria-label="The sheet"></div>
  </section>
</div>
""".strip()


def lay(service: Service) -> None:
    """Lay out the step."""
    silent(gr.HTML(STEP, elem_id="lora_ext_choose_box"))
