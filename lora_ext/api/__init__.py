"""The same calls over HTTP, and the service that joins a host to the training."""

from lora_ext.api.door import KEY_HEADER, NO_STORE, PREFIX, same_site
from lora_ext.api.mounting import PORT, mount, serve_standalone
from lora_ext.api.reach import Reach
from lora_ext.api.service import PAGE_KEY, make_service, output_path

__all__ = [
    "KEY_HEADER",
    "NO_STORE",
    "PAGE_KEY",
    "PORT",
    "PREFIX",
    "Reach",
    "make_service",
    "mount",
    "output_path",
    "same_site",
    "serve_standalone",
]
