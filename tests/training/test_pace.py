"""How fast each kind learns beside a LoRA, and the warning where its learning rate is another kind's."""

from __future__ import annotations

import math

import pytest
from training_runs import config, model, pictures

from lora_ext.adapters import CreateOptions
from lora_ext.errors import BadInput
from lora_ext.layers import Layer, LayerName
from lora_ext.training.check import check, remarks
from lora_ext.training.pace import pace

WIDE = 768
LAYER = Layer(LayerName("unet", "x"), "x", None, (640, WIDE), "linear", "x")
PER_INPUT = 16 / math.sqrt(3)
"""What a LoRA of rank 32 and alpha 16 moves per learning rate, times √inputs: half of 32 rows uniform in ±1/√inputs."""


@pytest.mark.parametrize(
    ("kind", "rank", "alpha", "expected"),
    [
        ("lora", 32, 16.0, 1.0),
        ("lora", 8, 8.0, 0.5),
        ("loha", 32, 16.0, 16 * 0.1 * math.sqrt(32 * WIDE) / PER_INPUT),
        ("loha", 32, 1.0, 0.1 * math.sqrt(32 * WIDE) / PER_INPUT),
        ("full", 1, 1.0, WIDE / PER_INPUT),
        ("ia3", 1, 1.0, 1 / PER_INPUT),
    ],
)
def test_pace_is_what_the_first_numbers_make_it(kind, rank, alpha, expected):
    assert pace(LAYER, kind, rank, alpha, CreateOptions()) == pytest.approx(expected, rel=0.1)


def said(tmp_path, **values):
    return [line for line in remarks(model(), config(tmp_path, **values)) if "about as fast as a LoRA" in line]


def test_too_fast_is_said_with_what_to_try(tmp_path):
    line, other = said(tmp_path, kind="loha", rank=8, alpha=8.0, learning_rate=1e-2)
    assert line.startswith("loha at a learning rate of 0.01 learns about as fast as a LoRA at ")
    assert "alpha 1" in other
    assert len(said(tmp_path, kind="loha", rank=8, alpha=1.0, learning_rate=1e-1)) == 1, "it has that alpha"
    tried = float(line.split(": try ")[1].split()[0])
    assert not said(tmp_path, kind="loha", rank=8, alpha=8.0, learning_rate=tried)
    assert not said(tmp_path, kind="loha", rank=8, alpha=8.0, learning_rate=1e-4)
    assert not said(tmp_path, kind="loha", rank=8, alpha=8.0, learning_rate=1e-2, optimizer="adafactor")
    assert not said(tmp_path, kind="lora", learning_rate=1e-2), "a LoRA's is the user's own choice"


def test_too_slow_is_said_with_what_to_try(tmp_path):
    (line,) = said(tmp_path, kind="ia3", learning_rate=1e-4)
    tried = float(line.removesuffix(" or more.").split()[-1])
    assert tried > 5e-4
    assert not said(tmp_path, kind="ia3", learning_rate=tried)


def test_the_text_encoders_rate_counts_where_they_learn_alone(tmp_path):
    assert said(tmp_path, kind="full", learning_rate=0.0, text_encoder_lr=1e-2)
    assert not said(tmp_path, kind="full", learning_rate=0.0, text_encoder_lr=1e-5)


def test_an_oft_that_cannot_turn_is_refused(tmp_path):
    pictures(tmp_path / "pictures")
    output = tmp_path / "x.safetensors"
    with pytest.raises(BadInput) as caught:
        check(model(), config(tmp_path, kind="oft", rank=1), output)
    assert [p.field for p in caught.value.problems] == ["rank"]
    assert not said(tmp_path, kind="oft", rank=1)
    for values in ({"rank": 2}, {"rank": 1, "oft_rescale": True}):
        check(model(), config(tmp_path, kind="oft", **values), output)


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "loha", "conv_rank": 4, "tucker": True, "dora": True, "rslora": True},
        {"kind": "lokr", "lokr_decompose_both": True},
        {"kind": "oft", "oft_constraint": 1e-3, "oft_rescale": True},
        {"kind": "ia3", "ia3_side": "input"},
        {"kind": "full", "layers": "all"},
        {"kind": "norm"},
        {"kind": "loha", "only_layers": "in_layers", "conv_rank": 4},
    ],
    ids=str,
)
def test_every_option_of_a_kind_has_a_pace(tmp_path, values):
    said(tmp_path, **values)
