"""AUTOMATIC1111's stable-diffusion-webui as a host. Import it inside the WebUI only, where `modules` is."""

from lora_ext.hosts.webui.access import guard
from lora_ext.hosts.webui.apply import before_step, hand_back, take_over
from lora_ext.hosts.webui.builtin import Builtin
from lora_ext.hosts.webui.captioners import captioners
from lora_ext.hosts.webui.job import interrupted
from lora_ext.hosts.webui.live import WebuiModel, current, of
from lora_ext.hosts.webui.openness import HOW, only_local, open_folders
from lora_ext.hosts.webui.settings import add_settings, lora_folder, lora_folders
from lora_ext.hosts.webui.shelf import Shelf

__all__ = [
    "HOW",
    "Builtin",
    "Shelf",
    "WebuiModel",
    "add_settings",
    "before_step",
    "captioners",
    "current",
    "guard",
    "hand_back",
    "interrupted",
    "lora_folder",
    "lora_folders",
    "of",
    "only_local",
    "open_folders",
    "take_over",
]
