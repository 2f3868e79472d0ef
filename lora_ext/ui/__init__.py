"""The tab: gradio widgets made from the settings, and the panel that shows the running job."""

from lora_ext.ui.page import application, serve
from lora_ext.ui.service import ProblemView, Service, Snapshot, labelled, view
from lora_ext.ui.tab import build

__all__ = ["ProblemView", "Service", "Snapshot", "application", "build", "labelled", "serve", "view"]
