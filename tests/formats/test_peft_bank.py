"""Files that peft and diffusers wrote, applied: whole tensors as peft merges them."""

from __future__ import annotations

import inspect
import json

import peer_models
import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_ext.formats import read_network
from lora_ext.patching import Strengths

pytest.importorskip("peft", reason="peft is not installed: its files are not compared")

import peft_files
from peft_files import WIDE

CONFIG = "adapter_config.json"
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


@pytest.mark.parametrize("written", ["beside", "inside"])
def test_modules_that_were_trained_whole(tmp_path, written):
    """`modules_to_save`: PEFT saves them as they came out, under the names that a model's own tensors have."""
    peer = peer_models.peer("sd1")
    kept = ("time_embedding.linear_2", "conv_in", "conv_norm_out")
    config = peft_files.peft.LoraConfig(r=4, lora_alpha=3, target_modules=WIDE, modules_to_save=list(kept))
    model = peft_files.wrapped(peer, "unet", config, torch.float32)
    own = {name: p for name, p in model.model.named_parameters() if "modules_to_save" in name}
    assert len(own) == 2 * len(kept)
    for name, p in own.items():
        p.data += torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))) * 0.1
    path = peft_files.saved(model, tmp_path / "a", torch.float32)
    places = {layer.module: layer for layer in peer.table.layers.values() if layer.name.component == "unet"}
    for name, p in own.items():
        module, _, end = name.removeprefix("base_model.model.").partition(".modules_to_save.default.")
        layer = places[module + (".bias" if end == "bias" else "")]
        peer.reference[layer.name] = p.detach().reshape(layer.shape).clone()
    peft_files.merge(model)
    if written == "inside":
        settings = json.dumps({f"unet.{k}": v for k, v in json.loads((path.parent / CONFIG).read_text()).items()})
        tensors = {key.replace("base_model.model", "unet"): t for key, t in load_file(path).items()}
        (path.parent / CONFIG).unlink()
        save_file(tensors, path, {"lora_adapter_metadata": settings})
    result = read_network(path, peer_models.names("sd1"))
    assert result.unmatched == ()
    peer_models.check(peer, {result.network: Strengths()}, 1e-5)


def test_tensors_of_the_base_model_that_nobody_trained(tmp_path):
    """The same names without the settings' word for it: they are named and left alone."""
    peer = peer_models.peer("sd1")
    model = peft_files.wrapped(peer, "unet", ALL["lora"](), torch.float32)
    path = peft_files.saved(model, tmp_path / "a", torch.float32)
    key = "base_model.model.conv_norm_out.weight"
    width = next(layer.shape for layer in peer.table.layers.values() if layer.module == "conv_norm_out")
    save_file({**load_file(path), key: torch.ones(width)}, path)
    peft_files.merge(model)
    result = read_network(path, peer_models.names("sd1"))
    assert result.unmatched == (key,)
    peer_models.check(peer, {result.network: Strengths()}, 1e-5)
