"""The demo's base model in the real WebUI: loaded by its own yaml, it paints what is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from demo_checkpoint import demo_checkpoint
from webui_server import Server, pixels, webui_folder

from demo import judge

PROMPTS = 20
LEAST = 0.85
"""Right colours and grounds; the standalone host gets 99 % and 98 %."""


@pytest.fixture(scope="module")
def base(webui_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A WebUI that has only the demo's base."""
    checkpoint = demo_checkpoint(tmp_path_factory.mktemp("base"))
    running = Server(webui_folder(), webui_python, tmp_path_factory.mktemp("webui-base"), [checkpoint])
    yield running
    running.stop()


def test_the_webui_paints_what_is_asked_for(base: Server) -> None:
    pairs = []
    for seed, (scene, prompt) in enumerate(judge.asked_for(PROMPTS)):
        png = base.png(prompt, seed=seed, steps=20, cfg_scale=7, sampler_name="Euler")
        pairs.append((scene, judge.look(pixels(png).astype(np.uint8))))
    result = judge.score(pairs)
    assert result.share("colour") >= LEAST and result.share("background") >= LEAST, judge.table(result, "in the WebUI")
