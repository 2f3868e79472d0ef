"""The shrunken random checkpoints behave enough like real ones to test everything else with."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from checkpoints import checkpoint, tensors
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTokenizer

from demo.random_base import main, make, plan, random_tensors
from lora_ext.model import (
    Tokenizer,
    added_conditioning,
    build_text,
    build_unet,
    build_vae,
    default_targets,
    detect,
    hints_from_yaml,
    layer_table,
    module_of,
)


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_same_seed_same_bytes(tmp_path):
    a, b, c = (make("sd1", tmp_path / f"{i}.safetensors", seed=s) for i, s in enumerate((0, 0, 1)))
    assert sha(a) == sha(b) != sha(c)
    assert a.stat().st_size < 30e6


def test_command_line(tmp_path, capsys):
    assert main(["--family", "sd2", "--inpainting", "--output", str(tmp_path / "deep" / "m.safetensors")]) == 0
    assert "m.safetensors" in capsys.readouterr().out
    path = tmp_path / "deep" / "m.safetensors"
    arch = detect(load_file(path), hints_from_yaml(path.with_suffix(".yaml")))
    assert arch.family == "sd2" and arch.inpainting
    assert "LatentInpaintDiffusion" in path.with_suffix(".yaml").read_text("utf8")


@pytest.mark.parametrize("family, prefix", [("sd1", "cond_stage_model"), ("sdxl", "conditioner.embedders.0")])
def test_the_folder_of_the_text_model_fits_the_weights(family, prefix):
    path = checkpoint(family)
    config = CLIPTextConfig.from_pretrained(path.with_suffix(".clip"))
    arch = detect(load_file(path))
    shape = arch.text[0]
    assert (config.hidden_size, config.num_hidden_layers) == (shape.width, shape.layers)
    assert (config.num_attention_heads, config.intermediate_size) == (shape.heads, shape.mlp)
    words = CLIPTokenizer.from_pretrained(path.with_suffix(".clip"))
    assert words("a photo of a cat")["input_ids"] == [49406, *Tokenizer().ids("a photo of a cat"), 49407]
    assert path.with_suffix(".clip").as_posix() in path.with_suffix(".yaml").read_text("utf8")


def test_the_hosts_text_tower_has_a_name_and_the_tests_one_is_small():
    """ViT-S-32-alt in open_clip: text width 256, 10 layers, 4 heads, embedding 256."""
    tower = plan("sdxl").open_clip
    assert tower is not None
    assert (tower.width, tower.layers, tower.heads, tower.projection) == (256, 10, 4, 256)
    assert plan("sdxl").unet.vector == 256 + 6 * 256
    small = random_tensors("sdxl", plan("sdxl", tiny_text=True), 0)
    assert sum(t.numel() for t in small.values()) < 16e6


def predict(arch, known, caption: str, seed: int = 0) -> torch.Tensor:
    unet, text = build_unet(arch, known), build_text(arch, known)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        told = text.encode(Tokenizer().tokens([caption], arch))
        added = added_conditioning(arch, told.pooled, torch.tensor([[128, 128, 0, 0, 128, 128]]))
        return unet(noise, torch.tensor([500]), encoder_hidden_states=told.context, added_cond_kwargs=added).sample


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_the_prompt_matters_and_nothing_overflows_half_precision(family):
    known = tensors(family, dtype=torch.float16)
    assert all(t.isfinite().all() for t in known.values() if t.is_floating_point())
    known = {k: v.float() if v.is_floating_point() else v for k, v in known.items()}
    arch = detect(known)
    largest: list[float] = []
    unet = build_unet(arch, known)
    hooks = [
        module.register_forward_hook(
            lambda m, i, o: largest.append(float(o.abs().max())) if hasattr(o, "abs") else None
        )
        for module in unet.modules()
    ]
    context = build_text(arch, known).encode(Tokenizer().tokens(["a photo of a cat"], arch))
    added = added_conditioning(arch, context.pooled, torch.tensor([[1024, 1024, 0, 0, 1024, 1024]]))
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        unet(latents, torch.tensor([900]), encoder_hidden_states=context.context, added_cond_kwargs=added)
    for hook in hooks:  # old versions of diffusers share one activation module among all models
        hook.remove()
    assert max(largest) < 6000  # float16 ends at 65504
    cat, dog = predict(arch, known, "a photo of a cat"), predict(arch, known, "an oil painting of a dog")
    assert (cat - dog).std() > 0.02 * cat.std()


def test_the_prediction_follows_the_noise():
    known = tensors("sd1")
    arch = detect(known, hints_from_yaml(checkpoint("sd1").with_suffix(".yaml")))
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    both = torch.stack([noise.flatten(), predict(arch, known, "a cat").flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.8


def test_a_change_of_rank_one_changes_the_prediction():
    known = tensors("sd1")
    arch = detect(known)
    table = layer_table(arch)
    unet = build_unet(arch, known)
    before = predict(arch, known, "a cat")
    for layer in default_targets(table, conv=False):
        if layer.name.component == "unet":
            weight = module_of(unet, layer).weight.flatten(1)
            weight += 0.05 * torch.ones(weight.shape[0], 1) @ torch.ones(1, weight.shape[1]) / weight.shape[1] ** 0.5
    assert (predict(arch, known, "a cat") - before).std() > 0.01 * before.std()


def test_encoding_is_almost_a_function():
    known = tensors("sd1")
    vae = build_vae(detect(known), known)
    with torch.no_grad():
        latents = vae.encode(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1).latent_dist
        assert float(latents.std.max()) < 0.1 < float(latents.mode().std())
        assert vae.decode(latents.mode()).sample.isfinite().all()
