"""Who can reach the WebUI, and which folders it lets them see."""

from __future__ import annotations

from pathlib import Path

from modules import shared

from lora_ext.hosts.webui.settings import lora_folders

HERE = ("127.0.0.1", "localhost", "::1")

HOW = "Put it there, or start the WebUI with --gradio-allowed-path and its folder."


def only_local() -> bool:
    """Whether only this machine can reach the WebUI, as far as its flags tell."""
    flags = shared.cmd_opts
    return not (flags.share or flags.listen or flags.ngrok or (flags.server_name or HERE[0]) not in HERE)


def open_folders() -> list[Path]:
    """Folders that anybody who may use the WebUI may name: those it serves files from, and those of the LoRAs."""
    return [*map(Path, shared.cmd_opts.gradio_allowed_path or ()), *lora_folders()]
