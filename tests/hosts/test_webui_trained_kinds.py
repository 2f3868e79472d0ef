"""Kinds of adapters, trained in the real WebUI: its builtin loader paints the same from the file.

At strength 1, in the kinds and layers that the builtin gets right: it finds no norm of a ResNet under the names that
trainers give them. The live weights of both are compared with W0 + ΔW, computed in float64 from the file.

The builtin computes a change in the number type of the file, W0 rounded to it. torch 2.1 cannot multiply float16
matrices on a CPU: there the builtin leaves out every layer of a float16 LoHa and nearly every one of a LoKr ("Networks
with errors" under the picture). Such files are ours alone to get right; the builtin's picture counts for float32 ones.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from webui_server import Server, apart

from lora_ext.formats import NameTable
from lora_ext.model import detect, hints_from_yaml, layer_table

CAT = "a photo of a cat"
Tensors = dict[str, Tensor]
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
    "loha": {"kind": "loha", "learning_rate": 0.02, "save_precision": "fp32"},
    "loha hard": {"kind": "loha", "learning_rate": 0.3, "save_precision": "fp32"},
    "lokr": {"kind": "lokr", "learning_rate": 0.02, "save_precision": "fp32"},
    "lokr hard": {"kind": "lokr", "learning_rate": 0.3, "save_precision": "fp32"},
    "full": {"kind": "full", "learning_rate": 0.002, "save_precision": "fp32"},
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


PRODUCTS: dict[str, Callable[[Tensors], Tensor]] = {
    "loha": lambda t: (t["hada_w1_a"] @ t["hada_w1_b"]) * (t["hada_w2_a"] @ t["hada_w2_b"]) / len(t["hada_w1_b"]),
    "lokr": lambda t: torch.kron(t["lokr_w1"], t["lokr_w2_a"] @ t["lokr_w2_b"]) / len(t["lokr_w2_b"]),
}


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("kind", PRODUCTS)
def test_the_live_weights_are_what_the_file_says(
    server: Server, plain: bytes, pictures: Path, base_checkpoints: list[Path], kind: str, precision: str
) -> None:
    """Trained so hard that ΔW is many times W0."""
    name = f"{kind} {precision}"
    server.train(name, pictures, max_steps=8, kind=kind, learning_rate=0.3, save_precision=precision)
    file = load_file(next(server.loras.rglob(f"{name}.safetensors")))
    want = dict(_changed(base_checkpoints[0], file, PRODUCTS[kind]))
    assert len(want) > 50 and plain
    ours = _live(server, name)
    assert max(_off(ours[key], weight) for key, weight in want.items()) <= 1e-6
    with server.builtin():
        theirs = _live(server, name)
    wrong = sum(_off(theirs[key], weight) > 1e-3 for key, weight in want.items())
    # all of them but the one or other layer that learnt next to nothing
    assert wrong > 0.9 * len(want) if precision == "fp16" else wrong == 0, "what is told of the builtin is not so"


def _changed(checkpoint: Path, file: Tensors, product: Callable[[Tensors], Tensor]) -> Iterator[tuple[str, Tensor]]:
    """W0 + ΔW in float64, of the linear layers in the UNet whose second factor is split."""
    base = load_file(checkpoint)
    table = layer_table(detect(base, hints_from_yaml(checkpoint.with_suffix(".yaml"))))
    names = NameTable(table)
    for name, layer in table.layers.items():
        start = f"{names.kohya(name)}."
        own = {key.removeprefix(start): t.double() for key, t in file.items() if key.startswith(start)}
        if name.component == "unet" and len(layer.shape) == 2 and own and "lokr_w2" not in own:
            yield layer.key, base[layer.key].double() + product(own) * own["alpha"]


def _live(server: Server, name: str) -> Tensors:
    server.png(f"{CAT}<lora:{name}:1>")
    place = server.data / "unet.safetensors"
    server.post(f"/probe/save-unet?place={urllib.parse.quote(str(place))}", {})
    return load_file(place)


def _off(live: Tensor, want: Tensor) -> float:
    return float((live.double() - want).norm() / want.norm())
