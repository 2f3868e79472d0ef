"""Step 1: the folder of pictures; what is seen of it is drawn by the page's script into the places laid out here."""

from __future__ import annotations

import json
from html import escape

import gradio as gr

from lora_ext.config import DataSetConfig, TrainConfig, settings
from lora_ext.ui.form import Fields, lay_settings, silent
from lora_ext.ui.service import Service


def lay(service: Service) -> Fields:
    """Lay out the step; returns the inputs it made."""
    fields: Fields = {}
    gr.HTML(
        '<p class="lora-ext-lead">A LoRA learns from a folder of pictures and from what is written about each. Nothing '
        "on disk changes until you save.</p>"
    )
    lay_settings([settings(TrainConfig)["images"]], fields)
    silent(gr.HTML(desk(), elem_id="lora_ext_pictures"))
    return fields


def desk() -> str:
    """The places, empty. `data-settings` names what the script sends along when it opens a folder."""
    names = escape(json.dumps(list(settings(DataSetConfig))), quote=True)
    return f"""
<div class="lora-ext-pics" data-settings="{names}" data-state="closed">
  {_DROP}
  <p class="lora-ext-report" data-pic="report" role="status" aria-live="polite"></p>
  <div class="lora-ext-pic-messages" data-pic="messages" role="alert"></div>
  <div class="lora-ext-pic-desk" data-pic="desk" hidden>
    {_BAR}
    <div class="lora-ext-pic-main">
      <div class="lora-ext-pic-left">
        <div class="lora-ext-pic-grid" data-pic="grid" role="listbox" aria-multiselectable="true" tabindex="0"
          aria-label="Pictures"><div data-pic="tiles"></div></div>
        <p class="lora-ext-pic-count" data-pic="count" role="status" aria-live="polite"></p>
      </div>
      {_DETAIL}
    </div>
    {_SAVE}
    {_TAGS}
    {_BULK}
    {_CAPTIONING}
    {_BACKUPS}
    <details class="lora-ext-pic-tool" data-pic="notes"><summary>What the trainer will say</summary>
      <ul data-pic="notices"></ul></details>
  </div>
</div>
""".strip()


_DROP = """
<div class="lora-ext-pic-drop" data-pic="drop">
  <span>Drop pictures and captions here, or</span>
  <label class="lora-ext-pic-file"><span>choose files</span><input type="file" multiple data-pic="files"
    accept="image/*,.txt,.caption"></label>
  <span>They are copied into the folder above; nothing in it is overwritten.</span>
</div>
""".strip()

_BAR = """
<div class="lora-ext-pic-bar">
  <label><span>Search</span><input type="search" data-pic="search" placeholder="words in names or captions"></label>
  <label><span>Show</span><select data-pic="filter">
    <option value="all">all</option>
    <option value="problem">with something to look at</option>
    <option value="no_caption">without caption</option>
    <option value="unreadable">unreadable</option>
    <option value="small">smaller than trained</option>
    <option value="cut">much cut off</option>
    <option value="alike">looking alike</option>
    <option value="encoding">with a caption that is not UTF-8</option>
    <option value="shared">sharing a caption</option>
    <option value="rotated">turned by the camera</option>
    <option value="changed">not saved yet</option>
    <option value="selected">selected</option>
  </select></label>
  <label><span>Sort by</span><select data-pic="sort">
    <option value="name">name</option>
    <option value="caption">caption</option>
    <option value="length">length of the caption</option>
    <option value="size">size</option>
    <option value="bucket">training size</option>
    <option value="problems">what to look at first</option>
  </select></label>
  <button type="button" data-pic="select-all">Select all shown</button>
  <button type="button" data-pic="select-none">Select none</button>
  <button type="button" data-pic="reload">Read the folder again</button>
</div>
""".strip()

_DETAIL = """
<section class="lora-ext-pic-detail" data-pic="detail" aria-label="The chosen picture">
  <div class="lora-ext-pic-view" data-pic="view"></div>
  <div class="lora-ext-pic-views">
    <button type="button" data-pic="as-trained" aria-pressed="true">As it is trained</button>
    <button type="button" data-pic="as-whole" aria-pressed="false">Whole picture</button>
    <button type="button" data-pic="other-view" hidden>Another version</button>
  </div>
  <h4 data-pic="name" translate="no"></h4>
  <p class="lora-ext-pic-facts" data-pic="facts"></p>
  <ul class="lora-ext-pic-problems" data-pic="problems"></ul>
  <label class="lora-ext-pic-caption"><span>Caption</span><textarea data-pic="caption" rows="4"
    spellcheck="true"></textarea></label>
  <ul class="lora-ext-pic-chips" data-pic="chips" translate="no"></ul>
  <p class="lora-ext-pic-trained" data-pic="trained"></p>
</section>
""".strip()

_SAVE = """
<div class="lora-ext-pic-save">
  <button type="button" data-pic="undo" disabled>Undo</button>
  <button type="button" data-pic="redo" disabled>Redo</button>
  <button type="button" data-pic="revert" disabled>Revert all</button>
  <button type="button" class="lora-ext-pic-primary" data-pic="save" disabled>Save captions</button>
  <span data-pic="saved" role="status" aria-live="polite"></span>
  <div class="lora-ext-pic-ask" data-pic="conflicts" role="alertdialog" aria-label="Caption files were changed" hidden>
    <p data-pic="conflict-text"></p>
    <button type="button" data-pic="save-mine">Save mine</button>
    <button type="button" data-pic="save-theirs">Take what is on disk</button>
    <button type="button" data-pic="save-not">Do nothing</button>
  </div>
</div>
""".strip()

_TAGS = """
<details class="lora-ext-pic-tool" open><summary>Tags</summary>
  <p class="lora-ext-pic-hint">Press a tag to see its pictures only.</p>
  <ul class="lora-ext-pic-cloud" data-pic="cloud" translate="no"></ul>
  <button type="button" data-pic="cloud-more" hidden>Show all tags</button>
</details>
""".strip()

_BULK = """
<details class="lora-ext-pic-tool"><summary>Change many captions</summary>
  <p class="lora-ext-pic-hint" data-pic="scope"></p>
  <label class="lora-ext-pic-wide"><span>Tags</span><input type="text" data-pic="words"></label>
  <div class="lora-ext-pic-error" data-pic-error="words"></div>
  <div class="lora-ext-pic-row">
    <button type="button" data-bulk="add">Add at the end</button>
    <button type="button" data-bulk="add_front">Add in front</button>
    <button type="button" data-bulk="remove">Remove</button>
    <button type="button" data-bulk="trigger">Move to the front</button>
    <button type="button" data-bulk="sort">Sort all tags by frequency</button>
  </div>
  <div class="lora-ext-pic-pair">
    <label><span>Find</span><input type="text" data-pic="find"></label>
    <label><span>Replace with</span><input type="text" data-pic="replace"></label>
    <label><span>What is found</span><select data-pic="find-kind">
      <option value="replace_tag">a whole tag</option>
      <option value="replace_text">any text</option>
      <option value="replace_pattern">a pattern (regular expression)</option>
    </select></label>
    <button type="button" data-pic="do-replace">Replace</button>
  </div>
  <div class="lora-ext-pic-error" data-pic-error="find"></div>
  <div class="lora-ext-pic-error" data-pic-error="replace"></div>
  <p class="lora-ext-pic-hint" data-pic="bulk-said" role="status" aria-live="polite"></p>
</details>
""".strip()

_CAPTIONING = """
<details class="lora-ext-pic-tool" data-pic="captioning"><summary>Describe pictures automatically</summary>
  <div class="lora-ext-pic-pair">
    <label><span>Model</span><select data-pic="captioner"></select></label>
    <label><span>Captions that are there</span><select data-pic="caption-mode">
      <option value="empty">stay; only empty ones are filled</option>
      <option value="append">stay; what is new is added</option>
      <option value="overwrite">are replaced</option>
    </select></label>
    <label data-pic="threshold-box"><span>How sure at least</span><input type="number" min="0.01" max="1"
      step="0.05" value="0.35" data-pic="threshold"></label>
    <label data-pic="character-box"><span>How sure of characters</span><input type="number" min="0.01" max="1"
      step="0.05" value="0.85" data-pic="character-threshold"></label>
  </div>
  <p class="lora-ext-pic-hint" data-pic="weights"></p>
  <div class="lora-ext-pic-error" data-pic-error="captioner"></div>
  <p class="lora-ext-pic-hint" data-pic="caption-scope"></p>
  <div class="lora-ext-pic-row">
    <button type="button" data-pic="describe">Describe</button>
    <button type="button" data-pic="fetch" hidden>Download the model</button>
    <button type="button" data-pic="cancel" hidden>Cancel</button>
    <progress data-pic="progress" max="100" value="0" aria-label="Progress" hidden></progress>
    <span data-pic="caption-said" role="status" aria-live="polite"></span>
  </div>
</details>
""".strip()

_BACKUPS = """
<details class="lora-ext-pic-tool" data-pic="backups-box"><summary>Captions before earlier saves</summary>
  <ul class="lora-ext-pic-backups" data-pic="backups"></ul>
</details>
""".strip()
