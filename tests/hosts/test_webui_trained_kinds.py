"""Kinds of adapters, trained in the real WebUI: its builtin loader paints the same from the file.

At strength 1, in the kinds and layers that the builtin gets right: it finds no norm of a ResNet under the names that
trainers give them. LoHa, LoKr and full differences are compared with the builtin's own classes, without a picture, in
tests/adapters/test_builtin_kinds.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from webui_server import Server, apart

CAT = "a photo of a cat"
KINDS = {
    "lora": {"learning_rate": 0.02},
    "lora and text": {"learning_rate": 0.02, "text_encoder_lr": 0.01},
    "locon": {"conv_rank": 4, "conv_alpha": 4, "learning_rate": 0.02},
    "locon tucker": {"conv_rank": 4, "conv_alpha": 4, "tucker": True, "learning_rate": 0.02},
    "rslora": {"rslora": True},
    "pissa": {"init": "pissa"},
    "dora": {"dora": True},
    "oft": {"kind": "oft", "learning_rate": 0.05},
    "ia3": {"kind": "ia3", "learning_rate": 0.3},
}


@pytest.fixture(scope="module")
def plain(server: Server) -> bytes:
    server.load("sd1.safetensors")
    return server.png(CAT)


@pytest.mark.parametrize("name", KINDS)
def test_the_builtin_paints_the_same_from_what_was_trained(
    server: Server, plain: bytes, pictures: Path, name: str
) -> None:
    server.train(f"kind {name}", pictures, max_steps=8, **KINDS[name])
    tagged = f"{CAT}<lora:kind {name}:1>"
    ours = server.png(tagged)
    assert apart(ours, plain) > 4, "it learnt nothing that is seen"
    with server.builtin():
        assert apart(server.png(tagged), ours) <= 2
    assert server.png(CAT) == plain
