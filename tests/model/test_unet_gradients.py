"""The backward pass through our UNet, with and without gradient checkpointing."""

from __future__ import annotations

import pytest
import torch
from checkpoints import tensors

from lora_ext.model import added_conditioning, build_unet, checkpoint_gradients, detect


def gradient(family: str, checkpointing: bool) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Gradients of an early and a late layer, and how many tensors the forward pass kept for the backward one."""
    known = tensors(family)
    arch = detect(known)
    unet = build_unet(arch, known)
    if checkpointing:
        checkpoint_gradients(unet)
    early = unet.get_submodule("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q").weight.requires_grad_(True)
    late = unet.get_submodule("up_blocks.1.resnets.0.conv1").weight.requires_grad_(True)
    generator = torch.Generator().manual_seed(5)
    pooled = torch.randn(1, arch.text[-1].projection, generator=generator) if family == "sdxl" else None
    added = added_conditioning(arch, pooled, torch.tensor([[64, 64, 0, 0, 64, 64]]))
    latents = torch.randn(1, 4, 16, 16, generator=generator)
    context = torch.randn(1, 77, arch.unet.context_dim, generator=generator)
    kept = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += 1
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        out = unet(latents, torch.tensor([300]), encoder_hidden_states=context, added_cond_kwargs=added).sample
    out.square().mean().backward()
    assert early.grad is not None and late.grad is not None
    return early.grad, late.grad, kept


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_checkpointing_keeps_less_and_gives_the_same_gradients(family):
    *plain, kept = gradient(family, checkpointing=False)
    *saved, kept_with = gradient(family, checkpointing=True)
    assert kept_with < kept / 2
    for one, other in zip(plain, saved, strict=True):
        assert one.abs().max() > 0
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5 * float(one.abs().max()))
