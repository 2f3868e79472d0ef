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


@pytest.mark.parametrize("variant", peft_files.UNET)
def test_file_of_save_pretrained(tmp_path, variant):
    peer = peer_models.peer("sd1")
    model = peft_files.wrapped(peer, "unet", peft_files.UNET[variant](), torch.float32)
    path = peft_files.saved(model, tmp_path, torch.float32)
    peft_files.merge(model)
    result = read_network(path, peer_models.names("sd1"))
    assert result.unmatched == ()
    peer_models.check(peer, {result.network: Strengths()}, 1e-5, least=15)


@pytest.mark.parametrize("variant", peft_files.ROTATIONS)
def test_file_of_peft_that_turns_inputs_or_outputs(tmp_path, variant):
    merge = peft_files.peft.tuners.boft.layer.Conv2d.merge
    if variant == "boft-conv" and "transpose" not in inspect.getsource(merge):
        pytest.skip("this peft mixes up rows and columns of a convolution under BOFT, and files do not tell")
    peer = peer_models.peer("sd1")
    model = peft_files.wrapped(peer, "unet", peft_files.ROTATIONS[variant](), torch.float32)
    path = peft_files.saved(model, tmp_path, torch.float32)
    peft_files.merge(model)
    result = read_network(path, peer_models.names("sd1"))
    assert result.unmatched == ()
    peer_models.check(peer, {result.network: Strengths()}, 1e-5, least=15)
