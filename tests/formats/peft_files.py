"""Networks made, filled and saved by peft and diffusers, and the weights that peft merges them to."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import peft
import safetensors.torch
import torch
from lycoris_files import layers_by_module
from peer_models import Peer, randomized
from torch import nn

from lora_ext.layers import LayerName

ATTENTION = r".*(to_q|to_k|to_v|to_out\.0)"
WIDE = r".*(to_q|to_k|to_v|to_out\.0|proj_in|net\.2|conv1|conv_in|time_emb_proj|q_proj|v_proj|fc1)"

UNET: Mapping[str, Callable[[], Any]] = {
    "lora": lambda: peft.LoraConfig(r=4, lora_alpha=3, target_modules=WIDE),
    "lora-rslora": lambda: peft.LoraConfig(r=4, lora_alpha=3, use_rslora=True, target_modules=WIDE),
    "lora-patterns": lambda: peft.LoraConfig(
        r=4,
        lora_alpha=3,
        target_modules=WIDE,
        rank_pattern={"attn1.to_q": 2, r".*attn2\.to_v": 6},
        alpha_pattern={"attn1.to_q": 5, "mid_block.attentions.0.proj_in": 1},
    ),
    "dora": lambda: peft.LoraConfig(r=4, lora_alpha=3, use_dora=True, target_modules=WIDE),
    "loha": lambda: peft.LoHaConfig(r=4, alpha=3, target_modules=WIDE),
    "loha-effective": lambda: peft.LoHaConfig(r=4, alpha=3, target_modules=WIDE, use_effective_conv2d=True),
    "lokr": lambda: peft.LoKrConfig(r=4, alpha=3, target_modules=WIDE),
    "lokr-both": lambda: peft.LoKrConfig(r=2, alpha=3, target_modules=WIDE, decompose_both=True, decompose_factor=8),
    "lokr-effective": lambda: peft.LoKrConfig(r=2, alpha=3, target_modules=WIDE, use_effective_conv2d=True),
    "lokr-whole": lambda: peft.LoKrConfig(r=64, alpha=3, target_modules=ATTENTION),
    "ia3": lambda: peft.IA3Config(target_modules=WIDE, feedforward_modules=r".*(net\.2|fc1|conv1)"),
    "ia3-list": lambda: peft.IA3Config(target_modules=["to_k", "to_v", "net.2"], feedforward_modules=["net.2"]),
}
ROTATIONS: Mapping[str, Callable[[], Any]] = {
    "oft": lambda: _oft(block_share=False),
    "oft-shared": lambda: _oft(block_share=True),
    "oft-exact": lambda: _oft(use_cayley_neumann=False),
    "boft": lambda: peft.BOFTConfig(boft_block_size=4, target_modules=ATTENTION, boft_n_butterfly_factor=1),
    "boft-conv": lambda: peft.BOFTConfig(boft_block_size=4, target_modules=WIDE, boft_n_butterfly_factor=1),
}


def _oft(**given: object) -> Any:
    """OFT counts blocks by `r`; releases differ in what else they know."""
    known = {field.name for field in dataclasses.fields(peft.OFTConfig)}
    sizes = {"oft_block_size": 0} if "oft_block_size" in known else {}
    more = {name: value for name, value in given.items() if name in known}
    return peft.OFTConfig(r=4, target_modules=ATTENTION, **sizes, **more)


@dataclasses.dataclass
class Wrapped:
    """A module of `peer` under a peft model; `owners` are its layers by id of the modules that hold their weights."""

    peer: Peer
    model: Any
    owners: Mapping[int, LayerName]


def wrapped(peer: Peer, part: str, config: Any, dtype: torch.dtype, seed: int = 5) -> Wrapped:
    """The UNet ("unet") or a text encoder ("te1", "te2") with filled adapters, numbers as `dtype` has them."""
    owners = layers_by_module(peer)
    module = peer.unet if part == "unet" else peer.text[int(part[2]) - 1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.PeftModel(_plain(module), config)
    fresh = {name: p for name, p in model.named_parameters() if any(sign in name for sign in SIGNS)}
    randomized(fresh, seed)
    for p in fresh.values():
        p.data = p.data.to(dtype).float()
    return Wrapped(peer, model.eval(), owners)


SIGNS = ("lora_", "hada_", "lokr_", "oft_", "boft_", "ia3_")


def _plain(module: nn.Module) -> nn.Module:
    """peft asks transformers' models for things that a piece of one has not."""
    holder = nn.Module()
    for name, child in module.named_children():
        holder.add_module(name, child)
    return holder


def saved(given: Wrapped, folder: Path, dtype: torch.dtype) -> Path:
    """`save_pretrained`'s file, with numbers of `dtype`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given.model.save_pretrained(str(folder))
    path = folder / "adapter_model.safetensors"
    tensors = {key: t.to(dtype) for key, t in safetensors.torch.load_file(path).items()}
    safetensors.torch.save_file(tensors, path)
    return path


@torch.no_grad()
def merge(given: Wrapped) -> None:
    """Put what peft merges the module to into the peer's reference. The module is of no use afterwards."""
    peer = given.peer
    for tuner in list(given.model.base_model.model.modules()):
        if not (hasattr(tuner, "get_base_layer") and hasattr(tuner, "merge")):
            continue
        base = tuner.get_base_layer()
        owner = given.owners[id(base)]
        tuner.merge()
        peer.reference[owner] = base.weight.detach().reshape(peer.table.layers[owner].shape).clone()
        if owner.bias in peer.table.layers and base.bias is not None:
            peer.reference[owner.bias] = base.bias.detach().clone()
