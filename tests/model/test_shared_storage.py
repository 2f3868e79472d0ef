"""Our modules live in the host's tensors: no second copy, and the host's own objects stay as they are."""

from __future__ import annotations

import gc

import pytest
import torch
from checkpoints import tensors
from torch import nn

from lora_ext.errors import BadInput
from lora_ext.model import Tokenizer, added_conditioning, build_text, build_unet, build_vae, detect

FAMILIES = ["sd1", "sd2", "sdxl"]


def run_unet(arch, known):
    generator = torch.Generator().manual_seed(1)
    unet = build_unet(arch, known)
    context = torch.randn(1, 77, arch.unet.context_dim, generator=generator)
    pooled = torch.randn(1, arch.text[-1].projection, generator=generator) if arch.family == "sdxl" else None
    added = added_conditioning(arch, pooled, torch.tensor([[64, 64, 0, 0, 64, 64]]))
    latents = torch.randn(1, arch.unet.in_channels, 8, 8, generator=generator)
    with torch.no_grad():
        return unet(latents, torch.tensor([300]), encoder_hidden_states=context, added_cond_kwargs=added).sample


def run_vae(arch, known):
    vae = build_vae(arch, known)
    picture = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return vae.decode(vae.encode(picture).latent_dist.mode()).sample


def run_text(arch, known):
    with torch.no_grad():
        out = build_text(arch, known).encode(Tokenizer().tokens(["a cat"], arch))
    return out.context if out.pooled is None else torch.cat([out.context.flatten(), out.pooled.flatten()])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_lies_in_a_host_storage(family):
    known = tensors(family)
    arch = detect(known)
    homes = {t.untyped_storage().data_ptr() for t in known.values()}
    for module in (build_unet(arch, known), build_vae(arch, known), build_text(arch, known)):
        for name, parameter in module.named_parameters():
            assert parameter.untyped_storage().data_ptr() in homes, name
            assert not parameter.requires_grad
        assert not any(b.is_meta for b in module.buffers())
        assert not any(m.training for m in module.modules())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "run, key",
    [
        (run_unet, "model.diffusion_model.output_blocks.3.1.transformer_blocks.0.attn2.to_v.weight"),
        (run_unet, "model.diffusion_model.out.2.bias"),
        (run_vae, "first_stage_model.decoder.mid.attn_1.v.weight"),
        (run_vae, "first_stage_model.encoder.conv_out.bias"),
    ],
)
def test_writing_a_host_tensor_changes_the_output(family, run, key):
    known = tensors(family)
    arch = detect(known)
    before = run(arch, known)
    known[key] += 0.1
    assert not torch.equal(run(arch, known), before)


@pytest.mark.parametrize(
    "family, key",
    [
        ("sd1", "cond_stage_model.transformer.text_model.encoder.layers.1.self_attn.q_proj.weight"),
        ("sd1", "cond_stage_model.transformer.text_model.final_layer_norm.bias"),
        ("sd2", "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_bias"),
        ("sd2", "cond_stage_model.model.positional_embedding"),
        ("sdxl", "conditioner.embedders.0.transformer.text_model.encoder.layers.0.mlp.fc1.weight"),
        ("sdxl", "conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight"),
        ("sdxl", "conditioner.embedders.1.model.text_projection"),
    ],
)
def test_writing_a_host_text_tensor_changes_the_output(family, key):
    known = tensors(family)
    arch = detect(known)
    before = run_text(arch, known)
    known[key][..., ::2] += 0.1
    assert not torch.equal(run_text(arch, known), before)


def test_writing_after_building_is_seen_and_taken_back_exactly():
    known = tensors("sd2")
    arch = detect(known)
    text, tokens = build_text(arch, known), Tokenizer().tokens(["a cat"], arch)
    fused = known["cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight"]
    keep = fused.clone()
    with torch.no_grad():
        before = text.encode(tokens).context
        fused[:64] += 0.1
        changed = text.encode(tokens).context
        fused.copy_(keep)
        after = text.encode(tokens).context
    assert not torch.equal(before, changed)
    assert torch.equal(before, after)


@pytest.mark.parametrize("family", FAMILIES)
def test_building_allocates_nothing_of_the_models_size(family):
    known = tensors(family)
    arch = detect(known)
    gc.collect()
    before = {id(o) for o in gc.get_objects()}
    built = (build_unet(arch, known), build_vae(arch, known), build_text(arch, known))
    homes = {t.untyped_storage().data_ptr() for t in known.values()}
    fresh = [o for o in gc.get_objects() if id(o) not in before and isinstance(o, torch.Tensor) and not o.is_meta]
    extra = {o.untyped_storage().data_ptr(): o.untyped_storage().nbytes() for o in fresh}
    assert len(fresh) > 100 and built
    assert sum(size for home, size in extra.items() if home not in homes) <= 2 * 77 * 8  # rows of position numbers


def test_the_hosts_parameter_objects_stay_as_they_are():
    known = {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in tensors("sdxl").items()}
    kinds = {k: (id(v), v.requires_grad, v.grad, v._version) for k, v in known.items()}
    arch = detect(known)
    unet, _, text = build_unet(arch, known), build_vae(arch, known), build_text(arch, known)
    unet.requires_grad_(True)
    text.encode(Tokenizer().tokens(["a"], arch)).context.sum()
    unet.conv_in.weight.grad = torch.ones_like(unet.conv_in.weight)
    assert kinds == {k: (id(v), v.requires_grad, v.grad, v._version) for k, v in known.items()}


@pytest.mark.parametrize("layout", ["linear", "channels_last"])
def test_one_by_one_convolutions_in_other_layouts_are_views_too(layout):
    known = tensors("sd1")
    arch = detect(known)
    before = run_vae(arch, known), run_unet(arch, known)
    for key, tensor in known.items():
        if layout == "channels_last" and tensor.ndim == 4:
            known[key] = tensor.to(memory_format=torch.channels_last)
        if layout == "linear" and ".attn_1." in key and tensor.ndim == 4:
            known[key] = tensor[:, :, 0, 0]
    homes = {t.untyped_storage().data_ptr() for t in known.values()}
    assert all(p.untyped_storage().data_ptr() in homes for p in build_vae(arch, known).parameters())
    assert torch.allclose(run_vae(arch, known), before[0], atol=1e-5)
    assert torch.allclose(run_unet(arch, known), before[1], atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtype_of_the_host_is_kept(dtype):
    known = {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors("sdxl").items()}
    arch = detect(known)
    for module in (build_unet(arch, known), build_vae(arch, known), build_text(arch, known)):
        assert {p.dtype for p in module.parameters()} == {dtype}


def test_tensors_that_went_missing():
    known = tensors("sd1")
    arch = detect(known)
    del known["model.diffusion_model.out.2.weight"]
    with pytest.raises(BadInput, match=r"out\.2\.weight is missing"):
        build_unet(arch, known)
