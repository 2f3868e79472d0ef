"""Formats x families x what the host does: each network paints as the builtin would have it, and leaves no trace."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from network_files import BUILTIN_FAILS, FORMATS, write
from PIL import Image
from webui_server import Server, apart

CAT = "a photo of a cat"
FAMILIES = ("sd1", "sdxl")
SITUATIONS: dict[str, dict[str, object]] = {
    "txt2img": {"steps": 2},
    "img2img": {"steps": 3, "denoising_strength": 0.7},
    "hires": {"steps": 2, "enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7},
    "refiner": {"steps": 4, "refiner_switch_at": 0.5},
}


@pytest.fixture(scope="session", params=FAMILIES)
def each(request: pytest.FixtureRequest) -> str:
    """For the whole session, so that pytest runs the tests of one family after another: a switch takes time."""
    return request.param


@pytest.fixture
def family(each: str, server: Server) -> str:
    server.load(f"{each}.safetensors")
    return each


@pytest.fixture(params=FORMATS)
def format(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def tag(family: str, format: str, server: Server, base_checkpoints: list[Path]) -> str:
    for kind in {format, "lora"}:
        path = server.loras / f"{family}-{kind}.safetensors"
        if not path.exists():
            write(next(p for p in base_checkpoints if p.stem == family), kind, path)
    return f"<lora:{family}-{format}:0.8>"


@pytest.fixture(scope="session")
def plain(server: Server) -> Callable[[str, str], bytes]:
    """The picture without tags, painted once per family and situation."""
    known: dict[tuple[str, str], bytes] = {}

    def painted(family: str, situation: str) -> bytes:
        if (family, situation) not in known:
            if situation == "refiner":
                paint(server, family, situation, CAT)  # the host writes the refiner's hash from the second time on
            known[family, situation] = paint(server, family, situation, CAT)
        return known[family, situation]

    return painted


def paint(server: Server, family: str, situation: str, prompt: str) -> bytes:
    wish = dict(SITUATIONS[situation])
    if situation == "refiner":
        wish["refiner_checkpoint"] = f"{family}-other.safetensors"
    if situation != "img2img":
        return server.png(prompt, **wish)
    wish |= {"prompt": prompt, "init_images": [base64.b64encode(FIRST).decode()], "width": 64, "height": 64, "seed": 1}
    return base64.b64decode(server.post("/sdapi/v1/img2img", wish)["images"][0])


def _first() -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    kept = io.BytesIO()
    Image.fromarray(noise).resize((64, 64)).save(kept, "PNG")
    return kept.getvalue()


FIRST = _first()


@pytest.mark.parametrize("situation", SITUATIONS)
def test_as_the_builtin_and_without_a_trace(
    family: str, format: str, tag: str, situation: str, server: Server, plain: Callable[[str, str], bytes]
) -> None:
    before = plain(family, situation)
    ours = paint(server, family, situation, CAT + tag)
    assert apart(ours, before) > 8, "the network does nothing"
    assert paint(server, family, situation, CAT) == before, "without the tag the picture is not what it was"
    if format in BUILTIN_FAILS:
        same = paint(server, family, situation, CAT + tag.replace(format, "lora"))
        assert apart(same, ours) <= 2, "the same numbers in kohya's names give another picture"
        return
    with server.builtin():
        theirs = paint(server, family, situation, CAT + tag)
    assert apart(ours, theirs) <= 2


def test_interrupt(family: str, tag: str, server: Server, plain: Callable[[str, str], bytes]) -> None:
    before = plain(family, "txt2img")
    thread = threading.Thread(target=server.png, args=(CAT + tag,), kwargs={"steps": 150})
    thread.start()
    until(lambda: server.get("/sdapi/v1/progress")["state"]["sampling_step"] > 1)
    server.post("/sdapi/v1/interrupt", {})
    thread.join(120)
    assert paint(server, family, "txt2img", CAT) == before


def test_another_checkpoint_and_back(family: str, tag: str, server: Server, plain: Callable[[str, str], bytes]) -> None:
    before, ours = plain(family, "txt2img"), paint(server, family, "txt2img", CAT + tag)
    server.load(f"{family}-other.safetensors")
    other = paint(server, family, "txt2img", CAT + tag)
    server.load(f"{family}.safetensors")
    assert paint(server, family, "txt2img", CAT + tag) == ours
    assert paint(server, family, "txt2img", CAT) == before
    assert apart(other, ours) > 0


def until(done: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it did not get there"
        time.sleep(0.05)


def test_hashes_of_every_kind(family: str, tag: str, server: Server) -> None:
    info = json.loads(server.txt2img(CAT + tag, steps=1)["info"])["infotexts"][0]
    assert f"{tag.split(':')[1]}: " in info.partition("Lora hashes")[2]
