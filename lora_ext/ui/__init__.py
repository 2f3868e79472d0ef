"""The tab: gradio widgets made from the settings, and the panel that shows the running job."""

from lora_ext.ui.page import serve
from lora_ext.ui.service import ProblemView, Service, Snapshot
from lora_ext.ui.tab import build

__all__ = ["ProblemView", "Service", "Snapshot", "build", "serve"]
