"""Our UNet and VAE against the real ldm classes that the checkpoints were made with (PyPI stable-diffusion-sdkit)."""

from __future__ import annotations

import pytest
import torch
import yaml
from checkpoints import checkpoint, tensors

from lora_ext.model import added_conditioning, build_unet, build_vae, detect, hints_from_yaml

openaimodel = pytest.importorskip(
    "ldm.modules.diffusionmodules.openaimodel",
    reason="NOT TESTED against ldm: stable-diffusion-sdkit==2.1.5, pytorch-lightning, einops, omegaconf are missing",
    exc_type=ImportError,
)
autoencoder = pytest.importorskip(
    "ldm.models.autoencoder", reason="NOT TESTED: ldm's autoencoder", exc_type=ImportError
)

TOLERANCE = 1e-5
"""Largest difference allowed, relative to the largest number of the whole tensor; float32."""


@pytest.fixture(autouse=True)
def one_thread():
    """Threads add up in another order each: with two of them the same UNet differs by 1.4e-5 instead of 0.8e-5."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    assert theirs.std() > 0.01 * theirs.abs().max()
    return float((ours - theirs).abs().max() / theirs.abs().max())


def config(family: str, inpainting: bool) -> dict:
    text = checkpoint(family, inpainting=inpainting, dtype=torch.float32).with_suffix(".yaml").read_text("utf8")
    return yaml.safe_load(text)["model"]["params"]


def loaded(module: torch.nn.Module, known: dict[str, torch.Tensor], prefix: str) -> torch.nn.Module:
    state = {k.removeprefix(prefix): v.clone() for k, v in known.items() if k.startswith(prefix)}
    module.load_state_dict(state, strict=True)
    return module.eval()


@pytest.mark.parametrize("family, inpainting", [("sd1", False), ("sd1", True), ("sd2", False)])
def test_unet(family, inpainting):
    known = tensors(family, inpainting=inpainting)
    path = checkpoint(family, inpainting=inpainting, dtype=torch.float32).with_suffix(".yaml")
    arch = detect(known, hints_from_yaml(path))
    peer = openaimodel.UNetModel(**config(family, inpainting)["unet_config"]["params"])
    peer = loaded(peer, known, "model.diffusion_model.")
    ours = build_unet(arch, known)
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(2, arch.unet.in_channels, 16, 24, generator=generator)
    context = torch.randn(2, 77, arch.unet.context_dim, generator=generator)
    steps = torch.tensor([7, 951])
    with torch.no_grad():
        expected = peer(latents, steps, context=context)
        got = ours(latents, steps, encoder_hidden_states=context).sample
    assert relative(got, expected) <= TOLERANCE


def test_sdxl_unet_with_its_vector_input():
    """ldm has SDXL's layout but for the vector: its part of the embedding is added by hand, as sgm's UNetModel does."""
    known = tensors("sdxl")
    arch = detect(known, hints_from_yaml(checkpoint("sdxl").with_suffix(".yaml")))
    params = dict(config("sdxl", False)["network_config"]["params"])
    label = {k: known.pop(k) for k in list(known) if ".label_emb." in k}
    for absent in ("adm_in_channels", "num_classes", "spatial_transformer_attn_type", "transformer_depth"):
        params.pop(absent)
    peer = openaimodel.UNetModel(**params, image_size=32, transformer_depth=1)
    deepen(peer, known)
    peer = loaded(peer, known, "model.diffusion_model.")
    known |= label
    embed = peer.time_embed
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(2, 4, 16, 16, generator=generator)
    context = torch.randn(2, 77, arch.unet.context_dim, generator=generator)
    pooled = torch.randn(2, arch.text[1].projection, generator=generator)
    sizes = torch.tensor([[64, 48, 3, 5, 64, 32], [32, 64, 0, 1, 96, 64]])
    steps = torch.tensor([7, 951])
    vector = torch.cat([pooled, openaimodel.timestep_embedding(sizes.flatten(), 256).reshape(2, -1)], dim=1)
    weights = [label[f"model.diffusion_model.label_emb.0.{i}.{part}"] for i in (0, 2) for part in ("weight", "bias")]
    linear = torch.nn.functional.linear
    extra = linear(torch.nn.functional.silu(linear(vector, *weights[:2])), *weights[2:])
    embed.register_forward_hook(lambda module, inputs, output: output + extra)
    with torch.no_grad():
        expected = peer(latents, steps, context=[context] * max(arch.unet.depth))  # ldm: one per block
        added = added_conditioning(arch, pooled, sizes)
        got = build_unet(arch, known)(latents, steps, encoder_hidden_states=context, added_cond_kwargs=added).sample
    assert relative(got, expected) <= TOLERANCE


def deepen(peer: torch.nn.Module, known: dict[str, torch.Tensor]) -> None:
    """Give each transformer of the peer as many blocks as the checkpoint has (ldm knows one depth for all)."""
    attention = pytest.importorskip("ldm.modules.attention")
    for name, module in peer.named_modules():
        if not isinstance(module, attention.SpatialTransformer):
            continue
        at = f"model.diffusion_model.{name}.transformer_blocks"
        while f"{at}.{len(module.transformer_blocks)}.norm1.weight" in known:
            first = module.transformer_blocks[0].attn2
            width = first.to_q.weight.shape[0]
            block = attention.BasicTransformerBlock(
                width, first.heads, width // first.heads, context_dim=first.to_k.weight.shape[1]
            )
            module.transformer_blocks.append(block)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_vae(family):
    known = tensors(family)
    arch = detect(known)
    params = dict(config(family, False)["first_stage_config"]["params"])
    peer = loaded(autoencoder.AutoencoderKL(**params), known, "first_stage_model.")
    ours = build_vae(arch, known)
    picture = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(3)) * 2 - 1
    with torch.no_grad():
        expected, got = peer.encode(picture), ours.encode(picture).latent_dist
        assert relative(got.mode(), expected.mode()) <= TOLERANCE
        assert relative(got.std, expected.std) <= TOLERANCE
        assert relative(ours.decode(got.mode()).sample, peer.decode(expected.mode())) <= TOLERANCE


def test_a_wrong_head_count_would_be_seen():
    """The parity above depends on the hints: with the family's guess instead of the yaml's heads it must fail."""
    known = tensors("sd2")
    told = detect(known, hints_from_yaml(checkpoint("sd2").with_suffix(".yaml")))
    assert detect(known).unet.heads != told.unet.heads
    latents, context = torch.randn(1, 4, 8, 8), torch.randn(1, 77, told.unet.context_dim)
    with torch.no_grad():
        outputs = [
            build_unet(arch, known)(latents, torch.tensor([5]), encoder_hidden_states=context).sample
            for arch in (told, detect(known))
        ]
    assert relative(*outputs) > 100 * TOLERANCE
