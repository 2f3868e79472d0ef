"""Files of HCP-Diffusion: their bases, sums and patterns of layers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from foreign import imported, keys

from lora_ext.config import DataConfig, read
from lora_ext.config_import import Import, read_foreign
from lora_ext.config_import.hcp_yaml import evaluate
from lora_ext.data import data_sets
from lora_ext.errors import BadInput


def test_hcp_with_its_bases() -> None:
    out = imported("hcp.yaml")
    assert out.origin == "HCP-Diffusion"
    lines = out.settings.pop("datasets")
    rules = out.settings.pop("layer_rules").split("; ")
    attention = r"^unet:.*\.(?:attn\d?)(?:\.|$)"
    assert out.settings == {
        "rank": 16,
        "alpha": 4.0,
        "learning_rate": 1e-5,
        "text_encoder_lr": 3e-5,
        "only_layers": rf"{attention}|^unet:.*\.(?:ff)(?:\.|$)|^te\d:.*\.(?:self_attn)(?:\.|$)",
        "precision": "fp16",
        "seed": 114514,
        "decode_threads": 3,
        "accumulate": 2,
        "epochs": 12,
        "save_every_steps": 100,
        "optimizer": "lion",
        "weight_decay": 1e-3,
        "schedule": "constant",
        "warmup": 50,
        "checkpoint": "models/base.safetensors",
        "caption_tokens": "150",
        "clip_skip": 2,
        "batch_size": 4,
        "buckets": True,
        "resolution": 768,
        "images": "owls/",
        "caption_file": "owls/captions.json",
        "caption_template": "a photo of sks-owl, [filewords]",
        "repeats": 3,
    }
    assert rules[0] == f"{attention} => rank=16 alpha=4 lr=2e-4"
    assert rules[2].endswith("rank=2 lr=3e-5 dropout=0.1")
    _, second = data_sets(read(DataConfig, {"images": "x", "datasets": lines}))
    assert (second.images, second.resolution) == ("more owls/", 768)
    assert set(keys(out.refused)) == {"_base_", "train.scale_lr", "train.ghost"}
    assert "nowhere.yaml" in why_all(out, "_base_")
    assert "logger" in keys(out.meaningless)


def why_all(out: Import, key: str) -> str:
    return " ".join(e.what for e in out.refused if e.key == key)


def test_the_layers_of_hcp_are_our_layers() -> None:
    """The patterns find what HCP's find in a real table of layers."""
    pattern = imported("hcp.yaml").settings["only_layers"]
    names = [
        "unet:input_blocks.1.1.transformer_blocks.0.attn2.to_k",
        "unet:middle_block.1.transformer_blocks.0.ff.net.2",
        "unet:input_blocks.1.1.proj_in",
        "te1:text_model.encoder.layers.0.self_attn.q_proj",
        "te1:text_model.encoder.layers.0.mlp.fc1",
        "unet:input_blocks.1.0.in_layers.2",
    ]
    assert [bool(re.search(pattern, name)) for name in names] == [True, True, False, True, False, False]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "not YAML"),
        ("- 1", "holds no settings"),
        ("_base_: a.yaml", "builds on itself"),
        ("a: !!python/object/apply:os.system ['true']", "not YAML"),
    ],
)
def test_bad_yaml_is_said(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(BadInput, match=said):
        read_foreign(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "value"), [("512*768", 393216), ("(1+2)*3//2", 4), ("-2+7/2", 1.5)]
)  # fmt: skip
def test_sums(text: str, value: float) -> None:
    assert evaluate(text) == value


@pytest.mark.parametrize("text", ["__import__('os')", "2**99", "a", "1/0", "[1]", "'a'*9", "(" * 500])
def test_sums_are_only_sums(text: str) -> None:
    with pytest.raises((ValueError, MemoryError)):
        evaluate(text)
