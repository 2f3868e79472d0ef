"""Networks made, filled and saved by lycoris-lora, and the weights that its own forward then works with."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from peer_models import Peer, randomized
from torch import Tensor, nn

from lora_ext.layers import LayerName

ALGOS: Mapping[str, Mapping[str, object]] = {
    "lora": {"algo": "lora", "conv_dim": 3},
    "locon-tucker": {"algo": "locon", "conv_dim": 3, "use_tucker": True},
    "lora-rslora": {"algo": "lora", "rs_lora": True},
    "lora-scalar": {"algo": "lora", "use_scalar": True},
    "lora-norm": {"algo": "lora", "train_norm": True},
    "lora-dora": {"algo": "lora", "dora_wd": True},
    "lora-dora-input": {"algo": "lora", "dora_wd": True, "wd_on_output": False},
    "locon-tucker-dora": {"algo": "locon", "use_tucker": True, "dora_wd": True},
    "locon-tucker-dora-input": {"algo": "locon", "use_tucker": True, "dora_wd": True, "wd_on_output": False},
    "loha": {"algo": "loha", "conv_dim": 2},
    "loha-tucker": {"algo": "loha", "use_tucker": True},
    "loha-tucker-dora": {"algo": "loha", "use_tucker": True, "dora_wd": True},
    "loha-dora": {"algo": "loha", "dora_wd": True},
    "loha-dora-input": {"algo": "loha", "dora_wd": True, "wd_on_output": False},
    "lokr": {"algo": "lokr", "factor": 4},
    "lokr-both": {"algo": "lokr", "factor": -1, "decompose_both": True},
    "lokr-tucker": {"algo": "lokr", "factor": 4, "use_tucker": True},
    "lokr-full": {"algo": "lokr", "full_matrix": True},
    "lokr-full-both": {"algo": "lokr", "full_matrix": True, "factor": 8},
    "lokr-tucker-dora-input": {"algo": "lokr", "use_tucker": True, "dora_wd": True, "wd_on_output": False},
    "lokr-dora": {"algo": "lokr", "factor": 4, "dora_wd": True},
    "lokr-dora-input": {"algo": "lokr", "factor": 4, "dora_wd": True, "wd_on_output": False},
    "glora": {"algo": "glora"},
    "ia3": {"algo": "ia3"},
    "oft": {"algo": "diag-oft"},
    "oft-constraint": {"algo": "diag-oft", "constraint": 0.05},
    "oft-rescaled": {"algo": "diag-oft", "rescaled": True},
    "boft": {"algo": "boft"},
    "boft-rescaled": {"algo": "boft", "rescaled": True},
    "full": {"algo": "full"},
    "full-norm": {"algo": "full", "train_norm": True},
}


PRESET = """
enable_conv = true
unet_target_module = [{classes}]
unet_target_name = ["conv_in", "time_embedding.linear_2"]
text_encoder_target_module = ["CLIPAttention", "CLIPSdpaAttention", "CLIPMLP"]
text_encoder_target_name = []
"""


def made(peer: Peer, variant: str, path: Path, dtype: torch.dtype, rank: int = 4, alpha: float = 3.0) -> None:
    """Save a network of this variant to `path` and put the weights it stands for into `peer.reference`."""
    logging.getLogger("LyCORIS").setLevel(logging.ERROR)
    from lycoris import kohya

    text = peer.text[0] if len(peer.text) == 1 else peer.text
    preset = path.with_suffix(".toml")
    classes = '"Transformer2DModel"' + (', "ResnetBlock2D", "Downsample2D"' if peer.family != "sdxl" else "")
    preset.write_text(PRESET.format(classes=classes), "utf8")
    arguments = {"preset": str(preset), **ALGOS[variant]}
    network = kohya.create_network(1.0, rank, alpha, None, text, peer.unet, warn_on_unmatched=False, **arguments)
    owners = layers_by_module(peer)
    randomized({f"{lora.lora_name}.{name}": p for lora in network.loras for name, p in lora.named_parameters()})
    for lora in network.loras:
        round_to(lora, dtype)
    if ALGOS[variant]["algo"] != "full":
        network.apply_to(text, peer.unet, True, True)
    else:  # keeps the whole weight, whose difference the file holds
        for lora in network.loras:
            lora.apply_to()
            network.add_module(lora.lora_name, lora)
    assert network.loras
    network.save_weights(str(path), dtype, {"ss_network_module": "lycoris.kohya"})
    for lora in network.loras:
        name = owners[id(lora.org_module[0])]
        for own, weight in effective(lora).items():
            peer.reference[name.bias if own == "bias" else name] = weight


def layers_by_module(peer: Peer) -> dict[int, LayerName]:
    """The layer that a module's weight is, by the module's id."""
    weights = [layer for layer in peer.table.layers.values() if layer.op != "bias"]
    return {id(module): layer.name for layer in weights if (module := peer.module(layer)) is not None}


@torch.no_grad()
def round_to(lora: nn.Module, dtype: torch.dtype) -> None:
    """Give the module the numbers that its file will have."""
    for p in lora.parameters():
        p.data = p.data.to(dtype).float()


@torch.no_grad()
def effective(lora: nn.Module) -> dict[str, Tensor]:
    """The weight (and bias) that a module's forward works with, by what it answers to every unit input."""
    kind = type(lora).__name__
    if kind == "NormModule":
        org = lora.org_module[0]
        return {"weight": org.weight + lora.w_norm, "bias": org.bias + lora.b_norm}
    org = lora.org_module[0]
    if kind == "FullModule":
        out = {"weight": lora.weight.detach().clone()}
        return out if lora.bias is None else {**out, "bias": lora.bias.detach().clone()}
    lora.eval()
    if isinstance(org, nn.Linear):
        answer = lora(torch.eye(org.in_features))
        return {"weight": (answer if org.bias is None else answer - org.bias).T}
    return {"weight": _kernel(lora, org)}


def _kernel(lora: nn.Module, org: nn.Conv2d) -> Tensor:
    """A convolution's kernel is its answer to one lit pixel, turned by half a turn."""
    channels, k = org.in_channels, org.kernel_size[0]
    for held in (org, lora):
        if hasattr(held, "stride"):
            held.stride = (1, 1)
    lora.kw_dict = {**lora.kw_dict, "stride": (1, 1)}
    lit = torch.zeros(channels, channels, k, k)
    lit[range(channels), range(channels), k // 2, k // 2] = 1
    answer = lora(lit)
    if org.bias is not None:
        answer = answer - org.bias[:, None, None]
    return answer.transpose(0, 1).flip(-1, -2)
