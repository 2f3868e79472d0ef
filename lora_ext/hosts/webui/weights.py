"""The WebUI's loaded model under the key names of its checkpoint file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from lora_ext.live import Part
from lora_ext.model.architecture import Hints

PREFIXES = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner.")


class Checkpoint(Protocol):
    """The host's record of a checkpoint file."""

    name_for_extra: str
    filename: str
    sha256: str | None


class HostModel(Protocol):
    """What is used of `shared.sd_model`: ldm's `LatentDiffusion` (SD1, SD2) or sgm's `DiffusionEngine` (SDXL)."""

    model: nn.Module
    first_stage_model: nn.Module
    cond_stage_model: nn.Module
    parameterization: str
    scale_factor: float
    alphas_cumprod_original: Tensor
    lowvram: bool
    sd_checkpoint_info: Checkpoint

    def modules(self) -> Iterator[nn.Module]: ...
    def state_dict(self, *, keep_vars: bool) -> dict[str, Tensor]: ...


def tensors(model: HostModel) -> dict[str, Tensor]:
    """Live parameters and buffers by checkpoint key.

    The host wraps text encoders and their token embeddings (`.wrapped`), and shows SDXL's conditioner a second time as
    `cond_stage_model`.
    """
    found: dict[str, Tensor] = {}
    twice = "cond_stage_model." if hasattr(model, "conditioner") else " "
    for key, tensor in model.state_dict(keep_vars=True).items():
        if key.startswith(PREFIXES) and not key.startswith(twice):
            found[key.replace(".wrapped.", ".")] = tensor
    return found


def parts(model: HostModel) -> dict[Part, nn.Module]:
    """The modules that can be on the device or off it."""
    text: nn.Module = getattr(model, "conditioner", None) or model.cond_stage_model
    return {"unet": model.model, "te": text, "vae": model.first_stage_model}


def hints(model: HostModel) -> Hints:
    """What the weights cannot tell, from the live modules."""
    heads, width = _unet_heads(model.model)
    return Hints(
        prediction_type="v_prediction" if model.parameterization == "v" else "epsilon",
        unet_heads=heads,
        unet_head_dim=width,
        te_heads=tuple(_text_heads(parts(model)["te"])),
        clip_skip=_clip_skip(model),
        scale_factor=float(model.scale_factor),
    )


def _unet_heads(unet: nn.Module) -> tuple[int | None, int | None]:
    """Heads of the cross attentions if they are the same everywhere, else their width if that is."""
    seen: set[tuple[int, int]] = set()
    for module in unet.modules():
        heads, to_q = getattr(module, "heads", None), getattr(module, "to_q", None)
        if isinstance(heads, int) and isinstance(to_q, nn.Linear):
            seen.add((heads, to_q.out_features // heads))
    counts, widths = {heads for heads, _ in seen}, {width for _, width in seen}
    if len(counts) == 1:
        return counts.pop(), None
    return None, widths.pop() if len(widths) == 1 else None


def _text_heads(text: nn.Module) -> Iterator[int | None]:
    """One per encoder, in order: Hugging Face's attention says `num_heads`, OpenCLIP's `nn.MultiheadAttention` too."""
    for root in _encoders(text):
        counts = (getattr(module, "num_heads", None) for module in root.modules())
        yield next((count for count in counts if isinstance(count, int)), None)


def _encoders(text: nn.Module) -> Iterator[nn.Module]:
    for embedder in getattr(text, "embedders", [text]):
        inner = getattr(embedder, "wrapped", embedder)
        if hasattr(inner, "transformer") or hasattr(inner, "model"):
            yield inner


def _clip_skip(model: HostModel) -> int | None:
    """OpenCLIP's `layer` of SD2; the host heeds none for SD1, and SDXL always uses its own."""
    inner = getattr(model.cond_stage_model, "wrapped", None)
    if inner is None or not hasattr(inner, "model"):
        return None
    return 2 if getattr(inner, "layer", "") == "penultimate" else 1


def unet_dtype(model: HostModel) -> torch.dtype:
    """Dtype the UNet is held in."""
    return next(model.model.parameters()).dtype
