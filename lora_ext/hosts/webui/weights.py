"""The WebUI's loaded model under the key names of its checkpoint file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

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


class _Place(NamedTuple):
    """Where a module keeps a tensor: in its `parameters` or `buffers`, under a name."""

    shelf: Mapping[str, Tensor | None]
    name: str


class _Child(NamedTuple):
    """A module and its place in the one above it."""

    shelf: Mapping[str, nn.Module | None]
    name: str
    module: nn.Module | None


class LiveTensors:
    """`tensors` of one model for every prompt: the way to each is looked for once, which takes tens of milliseconds.

    Tensors are fetched from their modules each time and none is held, so it does not matter how the host moves or
    replaces them. Modules that it replaces are noticed, and all is looked for again.
    """

    def __init__(self, model: HostModel) -> None:
        self._model = model
        self._places: dict[str, _Place] = {}
        self._children: list[_Child] = []
        self._sizes: list[tuple[Mapping[str, nn.Module | None], int]] = []

    def __call__(self) -> Mapping[str, Tensor]:
        """Checkpoint key -> live tensor, as `tensors` gives it."""
        if self._places and self._as_before():
            found = {key: shelf.get(name) for key, (shelf, name) in self._places.items()}
            # a tensor that is gone without its module: somebody renames things, which is rare
            if all(tensor is not None for tensor in found.values()):
                return {key: tensor for key, tensor in found.items() if tensor is not None}
        return self._look()

    def _as_before(self) -> bool:
        same = all(shelf.get(name) is module for shelf, name, module in self._children)
        return same and all(len(shelf) == size for shelf, size in self._sizes)

    def _look(self) -> Mapping[str, Tensor]:
        found = tensors(self._model)
        modules = list(self._model.modules())
        shelves = [shelf for m in modules for shelf in (m._parameters, m._buffers)]
        places = {id(t): _Place(shelf, name) for shelf in shelves for name, t in shelf.items() if t is not None}
        self._children = [_Child(m._modules, name, child) for m in modules for name, child in m._modules.items()]
        self._sizes = [(m._modules, len(m._modules)) for m in modules]
        # a key whose tensor no module holds was made by a hook: then nothing is remembered
        known = all(id(tensor) in places for tensor in found.values())
        self._places = {key: places[id(tensor)] for key, tensor in found.items()} if known else {}
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
