"""The contract between a host and the rest: the loaded model as checkpoint tensors, safe to borrow.

It stands beside `config` and `layers` because `training` (which may not import hosts) and `hosts` both need it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from PIL import Image

from lora_ext.layers import LayerTable
from lora_ext.model.architecture import Architecture
from lora_ext.patching import WeightPatcher

Part = Literal["unet", "te", "vae"]


@dataclass(frozen=True)
class RenderRequest:
    """One picture to render. `width`, `height` in pixels, multiples of 8; `cfg` is the guidance scale."""

    prompt: str
    negative: str = ""
    seed: int = 0
    steps: int = 20
    cfg: float = 7.0
    width: int = 512
    height: int = 512


@dataclass(frozen=True)
class CheckpointInfo:
    """The checkpoint's identity as hosts show it. `sha256` may be empty when the host has not computed it."""

    name: str
    filename: str
    sha256: str


class Session(Protocol):
    """A borrowed model."""

    def place(self, *parts: Part) -> None:
        """Put exactly these parts on `LiveModel.device`, the others on the CPU.

        Moves storage: build modules over `LiveModel.tensors` only after placing, and again after the next `place`.
        """


class LiveModel(Protocol):
    """A loaded model in any host."""

    @property
    def kind(self) -> str: ...  # "standalone", "a1111"
    @property
    def architecture(self) -> Architecture: ...
    @property
    def table(self) -> LayerTable: ...
    @property
    def tensors(self) -> Mapping[str, torch.Tensor]: ...  # checkpoint key -> live tensor; look up again after `place`
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...  # of the UNet's weights
    @property
    def checkpoint(self) -> CheckpointInfo: ...
    @property
    def alphas_cumprod(self) -> torch.Tensor: ...  # [1000], float32, of the noise schedule the model was trained with
    @property
    def patcher(self) -> WeightPatcher: ...

    def session(self) -> AbstractContextManager[Session]:
        """Make the model safe to train; on leaving, every weight, flag, mode and place is as it was, bit for bit.

        Holds the host's lock. Inside, networks applied before are off (`patcher` is clear), parameters are frozen and
        modules are in eval mode.
        """

    def render(self, request: RenderRequest) -> Image.Image:
        """Render with the host's own sampler and the weights as they are; applies no tags, changes no weights.

        May be called inside a session (it places parts as it needs and puts them back) or outside (takes the lock).
        """


__all__ = ["CheckpointInfo", "LiveModel", "Part", "RenderRequest", "Session"]
