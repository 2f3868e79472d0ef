"""Files that peft and diffusers wrote, applied: whole tensors as peft merges them."""

from __future__ import annotations

import inspect

import peer_models
import pytest
import torch

from lora_ext.formats import read_network
from lora_ext.patching import Strengths

pytest.importorskip("peft", reason="peft is not installed: its files are not compared")

import peft_files

ALL = {**peft_files.UNET, **peft_files.ROTATIONS}
TEXT = r".*(q_proj|k_proj|v_proj|out_proj|fc1|fc2|text_projection)"
CASES = [
    *(("sd1", "unet", variant) for variant in ALL),
    *(("sdxl", "unet", variant) for variant in ("lora-patterns", "dora", "loha", "lokr", "ia3", "oft", "boft-conv")),
    *(("sdxl", "te1", variant) for variant in ("lora", "lokr", "oft-shared", "boft")),
    *(("sdxl", "te2", variant) for variant in ("dora", "loha", "ia3", "oft")),
    ("sd2", "te1", "lora-rslora"),
]


@pytest.mark.parametrize(("family", "part", "variant"), CASES)
def test_file_of_save_pretrained(tmp_path, variant, family, part):
    """Such a file of a text encoder does not say of which one it is: sizes tell, or else the folder's name."""
    merge = peft_files.peft.tuners.boft.layer.Conv2d.merge
    if variant == "boft-conv" and "transpose" not in inspect.getsource(merge):
        pytest.skip("this peft mixes up rows and columns of a convolution under BOFT, and files do not tell")
    peer, config = peer_models.peer(family), ALL[variant]()
    if part != "unet":
        config.target_modules = TEXT
    if part != "unet" and variant.startswith("ia3"):
        config.feedforward_modules = r".*fc2"
    model = peft_files.wrapped(peer, part, config, torch.float32)
    folder = (
        {"te1": "text_encoder", "te2": "text_encoder_2"}[part] if variant == "oft-shared" and part != "unet" else "a"
    )
    path = peft_files.saved(model, tmp_path / folder, torch.float32)
    peft_files.merge(model)
    result = read_network(path, peer_models.names(family))
    assert result.unmatched == ()
    peer_models.check(peer, {result.network: Strengths()}, 1e-5, least=15 if part == "unet" else 6)
