"""Files that lycoris-lora wrote, of every kind, applied: whole tensors as its own forward has them."""

from __future__ import annotations

import peer_models
import pytest
import torch

from lora_ext.formats import read_network
from lora_ext.patching import Strengths

pytest.importorskip("lycoris", reason="lycoris-lora is not installed: its files are not compared")

import lycoris_files

BOUNDS = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-3}
CASES = [("sd1", variant, torch.float32) for variant in lycoris_files.ALGOS]
CASES += [("sd2", variant, torch.float32) for variant in ("lora-dora", "lokr-tucker", "oft-rescaled")]
CASES += [("sdxl", variant, torch.float16) for variant in lycoris_files.ALGOS]


@pytest.mark.parametrize(("family", "variant", "dtype"), CASES, ids=lambda v: str(v).removeprefix("torch."))
def test_file_of_lycoris(tmp_path, family, variant, dtype):
    peer, names, path = peer_models.peer(family), peer_models.names(family), tmp_path / "a.safetensors"
    lycoris_files.made(peer, variant, path, dtype)
    result = read_network(path, names)
    assert result.unmatched == ()
    peer_models.check(peer, {result.network: Strengths()}, BOUNDS[dtype], least=30)
