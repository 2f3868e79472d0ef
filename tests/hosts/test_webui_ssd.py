"""SSD-1B, a pruned SDXL that the WebUI makes out of its SDXL: LoRAs made for it apply, as the builtin has them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from network_files import write
from webui_server import Server, apart, webui_folder

from demo import random_base

CAT = "a photo of a cat"


def pruned(folder: Path) -> Path:
    """A shrunken SSD-1B: as deep as the real one, because the WebUI prunes its SDXL by counting blocks."""
    made = random_base.plan("sdxl")
    size = dataclasses.replace(made.unet, base=32, multipliers=(1, 1, 1), depth=(0, 2, 10), pruned=True)
    return random_base.make("sdxl", folder / "ssd.safetensors", made=dataclasses.replace(made, unet=size))


@pytest.fixture(scope="module")
def ssd(webui_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A WebUI that has only such a checkpoint."""
    checkpoint = pruned(tmp_path_factory.mktemp("ssd"))
    running = Server(webui_folder(), webui_python, tmp_path_factory.mktemp("webui-ssd"), [checkpoint])
    yield running, checkpoint
    running.stop()


@pytest.mark.parametrize("kind", ["lora", "loha"])
def test_as_the_builtin_and_without_a_trace_on_ssd(ssd: tuple[Server, Path], kind: str) -> None:
    server, checkpoint = ssd
    write(checkpoint, kind, server.loras / f"ssd-{kind}.safetensors")
    before = server.png(CAT, steps=2)
    ours = server.png(f"{CAT}<lora:ssd-{kind}:0.8>", steps=2)
    assert apart(ours, before) > 8, "the network does nothing"
    assert server.png(CAT, steps=2) == before
    with server.builtin():
        theirs = server.png(f"{CAT}<lora:ssd-{kind}:0.8>", steps=2)
    assert apart(ours, theirs) <= 2
