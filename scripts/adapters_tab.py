"""Registers the extension with the WebUI. Everything it does is in `lora_ext`."""

from pathlib import Path

import gradio as gr
from fastapi import Depends, FastAPI
from modules import script_callbacks

from lora_ext.api import Reach, make_service, mount
from lora_ext.hosts import webui
from lora_ext.ui import build

shelf = webui.Shelf()
library = shelf.library


def after_save(path: Path) -> None:
    """A new file is known at once, to us and to the host's cards."""
    library.refresh()
    webui.Builtin.find().list_again(path.stem)


reach = Reach(webui.only_local(), webui.open_folders, webui.HOW)
service = make_service(webui.current, webui.lora_folder, after_save, webui.interrupted, reach)


def tabs() -> list[tuple[gr.Blocks, str, str]]:
    """The training tab."""
    return [(build(service), "LoRA training", "lora_ext_tab")]


def started(_: gr.Blocks | None, app: FastAPI) -> None:
    """Routes for this app, and the tags: the builtin registers itself later than `before_ui` would allow."""
    mount(app, service, [Depends(webui.guard)], webui.captioners())
    webui.take_over(library)
    shelf.start(app, [Depends(webui.guard)])


script_callbacks.on_ui_tabs(tabs)
script_callbacks.on_ui_settings(webui.add_settings)
script_callbacks.on_ui_settings(shelf.add_settings)
script_callbacks.on_infotext_pasted(shelf.pasted)
script_callbacks.on_app_started(started)
script_callbacks.on_cfg_denoiser(webui.before_step)
script_callbacks.on_script_unloaded(webui.hand_back)
script_callbacks.on_script_unloaded(shelf.close)
