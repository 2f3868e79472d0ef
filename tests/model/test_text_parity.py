"""Our text encoders against transformers' own class, torch's fused attention and the real open_clip."""

from __future__ import annotations

import pytest
import torch
from checkpoints import tensors
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from lora_ext.errors import BadInput
from lora_ext.model import Tokenizer, build_text, detect

TOLERANCE = 1e-5
CAPTIONS = ["a photo of a sks cat, highly detailed", "", "word " * 90]


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    assert theirs.std() > 0.01 * theirs.abs().max()
    return float((ours - theirs).abs().max() / theirs.abs().max())


def below(known: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v.clone() for k, v in known.items() if k.startswith(prefix)}


class Layers(nn.Module):
    """CLIP's text transformer (Radford et al. 2021) written down once more, on torch's own attention."""

    def __init__(self, state: dict[str, torch.Tensor], heads: int) -> None:
        super().__init__()
        self.state, self.heads = state, heads
        self.depth = len({k.split(".")[2] for k in state if k.startswith("transformer.resblocks.")})

    def hidden(self, ids: torch.Tensor) -> list[torch.Tensor]:
        """States after the embeddings and after each block, without the final norm."""
        x = self.state["token_embedding.weight"][ids] + self.state["positional_embedding"]
        mask = torch.full((77, 77), float("-inf")).triu(1)
        states = [x]
        for i in range(self.depth):
            at = f"transformer.resblocks.{i}."
            own = {k.removeprefix(at): v for k, v in self.state.items() if k.startswith(at)}
            attention = nn.MultiheadAttention(x.shape[-1], self.heads, batch_first=True)
            attention.load_state_dict({k.removeprefix("attn."): v for k, v in own.items() if k.startswith("attn.")})
            y = self.norm(x, own, "ln_1")
            x = x + attention(y, y, y, need_weights=False, attn_mask=mask)[0]
            y = nn.functional.linear(self.norm(x, own, "ln_2"), own["mlp.c_fc.weight"], own["mlp.c_fc.bias"])
            x = x + nn.functional.linear(nn.functional.gelu(y), own["mlp.c_proj.weight"], own["mlp.c_proj.bias"])
            states.append(x)
        return states

    def norm(self, x: torch.Tensor, state: dict[str, torch.Tensor], name: str = "ln_final") -> torch.Tensor:
        return nn.functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def hugging_face(known: dict[str, torch.Tensor], prefix: str, heads: int) -> CLIPTextModel:
    state = {k: v for k, v in below(known, prefix).items() if "position_ids" not in k}
    width = state["text_model.final_layer_norm.weight"].shape[0]
    layers = len({k.split(".")[3] for k in state if ".layers." in k})
    config = CLIPTextConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads
    )
    model = CLIPTextModel(config)
    if not hasattr(model, "text_model"):
        state = {k.removeprefix("text_model."): v for k, v in state.items()}
    missing = model.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys and not [k for k in missing.missing_keys if "position_ids" not in k]
    return model.eval()


@pytest.mark.parametrize("clip_skip", [0, 1, 2, 3])
@torch.no_grad()
def test_sd1_takes_hidden_states_from_the_end_and_norms_them(clip_skip):
    known = tensors("sd1")
    arch = detect(known)
    tokens = Tokenizer().tokens(CAPTIONS, arch)
    peer = hugging_face(known, "cond_stage_model.transformer.", arch.text[0].heads)
    out = peer(input_ids=tokens[0], output_hidden_states=True)
    if clip_skip <= 1:
        expected = out.last_hidden_state
    else:
        inner = getattr(peer, "text_model", peer)
        expected = inner.final_layer_norm(out.hidden_states[-clip_skip])
    got = build_text(arch, known).encode(tokens, clip_skip)
    assert got.pooled is None
    assert relative(got.context, expected) <= TOLERANCE


@pytest.mark.parametrize("clip_skip, back", [(0, 2), (1, 1), (2, 2), (3, 3)])
@torch.no_grad()
def test_sd2_takes_the_penultimate_layer_and_norms_it(clip_skip, back):
    known = tensors("sd2")
    arch = detect(known)
    tokens = Tokenizer().tokens(CAPTIONS, arch)
    state = below(known, "cond_stage_model.model.")
    peer = Layers(state, arch.text[0].heads)
    expected = peer.norm(peer.hidden(tokens[0])[-back], state)
    assert relative(build_text(arch, known).encode(tokens, clip_skip).context, expected) <= TOLERANCE


@pytest.mark.parametrize("clip_skip", [0, 1, 12])
@torch.no_grad()
def test_sdxl_takes_both_penultimate_layers_without_norm_and_pools_the_last(clip_skip):
    known = tensors("sdxl")
    arch = detect(known)
    tokens = Tokenizer().tokens(CAPTIONS, arch)
    first = hugging_face(known, "conditioner.embedders.0.transformer.", arch.text[0].heads)
    one = first(input_ids=tokens[0], output_hidden_states=True).hidden_states[-2]
    state = below(known, "conditioner.embedders.1.model.")
    peer = Layers(state, arch.text[1].heads)
    states = peer.hidden(tokens[1])
    last = peer.norm(states[-1], state)
    ends = [row.tolist().index(49407) for row in tokens[1]]
    pooled = torch.stack([last[i, end] for i, end in enumerate(ends)]) @ state["text_projection"]
    got = build_text(arch, known).encode(tokens, clip_skip)
    assert relative(got.context, torch.cat([one, states[-2]], dim=-1)) <= TOLERANCE
    assert got.pooled is not None
    assert relative(got.pooled, pooled) <= TOLERANCE


@torch.no_grad()
def test_open_clip_itself():
    open_clip = pytest.importorskip(
        "open_clip",
        reason="NOT TESTED against open_clip here: it needs a torchvision built for this torch",
        exc_type=ImportError,
    )
    known = tensors("sdxl")
    arch = detect(known)
    shape = arch.text[1]
    text = {
        "context_length": 77,
        "vocab_size": 49408,
        "width": shape.width,
        "heads": shape.heads,
        "layers": shape.layers,
    }
    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 32}
    model = open_clip.model.CLIP(embed_dim=shape.projection, vision_cfg=vision, text_cfg=text).eval()
    state = below(known, "conditioner.embedders.1.model.")
    missing = model.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys and all(k.startswith("visual.") for k in missing.missing_keys)
    tokens = Tokenizer().tokens(CAPTIONS[:2], arch)
    pooled = model.encode_text(tokens[1])
    x = (model.token_embedding(tokens[1]) + model.positional_embedding).permute(1, 0, 2)
    for block in model.transformer.resblocks[:-1]:
        x = block(x, attn_mask=model.attn_mask)
    got = build_text(arch, known).encode(tokens)
    assert got.pooled is not None
    assert relative(got.pooled, pooled) <= TOLERANCE
    assert relative(got.context[..., -shape.width :], x.permute(1, 0, 2)) <= TOLERANCE


@pytest.mark.parametrize("clip_skip", [-1, 5])
def test_more_layers_than_there_are(clip_skip):
    known = tensors("sd1")
    arch = detect(known)
    text, tokens = build_text(arch, known), Tokenizer().tokens(["a"], arch)
    with pytest.raises(BadInput, match=f"expected 1 to 4, or 0; got {clip_skip}"):
        text.encode(tokens, clip_skip)


def test_gradients_flow_through_the_text_encoder():
    known = tensors("sd2")
    arch = detect(known)
    text = build_text(arch, known)
    parameter = next(p for n, p in text.named_parameters() if "layers.0.self_attn.q_proj.weight" in n)
    parameter.requires_grad_(True)
    text.encode(Tokenizer().tokens(["a cat"], arch)).context.square().sum().backward()
    assert parameter.grad is not None and parameter.grad.abs().sum() > 0
