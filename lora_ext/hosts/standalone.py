"""The host without a WebUI: a checkpoint file held as its own tensors. Offline: nothing is looked up anywhere."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lora_ext.config import CheckpointConfig
from lora_ext.errors import BadInput, Problem
from lora_ext.formats import open_checkpoint
from lora_ext.hosts.given_path import given_path
from lora_ext.hosts.sampler import Guidance, denoise, euler, first_noise, to_picture
from lora_ext.hosts.weight_file import weight_file
from lora_ext.layers import LayerTable
from lora_ext.live import CheckpointInfo, Part, RenderRequest, Session
from lora_ext.model import (
    Conditioning,
    Tokenizer,
    added_conditioning,
    build_text,
    build_unet,
    build_vae,
    detect,
    hints_from_yaml,
    layer_table,
)
from lora_ext.model.architecture import Architecture, Hints
from lora_ext.patching import WeightPatcher

PARTS: tuple[Part, ...] = ("unet", "te", "vae")
LARGEST = 8192  # px of a side; far above what any model was made for
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class StandaloneModel:
    """`LiveModel` over a checkpoint file.

    The UNet and the text encoders are held in the model's dtype, the VAE always in float32 (SDXL's overflows fp16).
    """

    kind = "standalone"

    def __init__(self, path: Path, arch: Architecture, tensors: dict[str, Tensor], device: torch.device) -> None:
        """Take over `tensors` (writable, on `device`, all of them of the UNet, text encoders or VAE)."""
        self.path = path
        self.architecture = arch
        self.table: LayerTable = layer_table(arch)
        self.tensors = tensors
        self.device = device
        self.dtype = tensors[next(iter(self.table.layers.values())).key].dtype
        self.alphas_cumprod = scaled_linear()
        self.patcher = WeightPatcher(lambda: self.tensors, self.table, lambda: weight_file(path))
        self._keys = {part: [k for k in tensors if part_of(k, arch) == part] for part in PARTS}
        self._there: set[Part] = set(PARTS)
        self._modules: dict[Part, Any] = {}  # diffusers' modules, whose types the checker does not see
        self._tokenizer = Tokenizer()
        self._lock = threading.RLock()

    @classmethod
    def load(cls, config: CheckpointConfig) -> StandaloneModel:
        """Read a checkpoint. Raises `BadInput` for a file that is no Stable Diffusion model or an absent device."""
        device = find_device(config.device)
        dtype = chosen_dtype(config.model_precision, device)
        path = checkpoint_path(config.checkpoint)
        found, _ = open_checkpoint(path)
        arch = detect(found, yaml_hints(path))
        tensors = {key: t for key, t in found.items() if part_of(key, arch) is not None}
        unet_dtype = dtype or _stored_dtype(tensors, arch)
        for key, tensor in tensors.items():
            wanted = torch.float32 if part_of(key, arch) == "vae" else unet_dtype
            # A private copy: the file's pages are read-only and must not follow the weights.
            tensors[key] = tensor.to(device, wanted if tensor.is_floating_point() else tensor.dtype, copy=True)
        return cls(path, arch, tensors, device)

    @cached_property
    def checkpoint(self) -> CheckpointInfo:
        """Name and sha256 of the file (read once, when first asked for)."""
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            for block in iter(lambda: file.read(1 << 22), b""):
                digest.update(block)
        return CheckpointInfo(self.path.stem, self.path.name, digest.hexdigest())

    @contextmanager
    def session(self) -> Iterator[Session]:
        """See `LiveModel.session`."""
        with self._lock:
            wanted = dict(self.patcher.state)
            self.patcher.clear()
            self.patcher.release()
            try:
                yield self
            finally:
                self.patcher.clear()
                self.place(*PARTS)
                self.patcher.apply(wanted)

    def place(self, *parts: Part) -> None:
        """See `Session.place`."""
        for part in PARTS:
            if (part in parts) != (part in self._there):
                self._move(part, part in parts)

    def render(self, request: RenderRequest) -> Image.Image:
        """See `LiveModel.render`. The prompt is plain text: no emphasis signs, cut after 75 tokens.

        Raises `BadInput` for a size that is not a multiple of 8.
        """
        return to_picture(self.decoded(request))

    def decoded(self, request: RenderRequest, before_step: Callable[[int], None] = lambda step: None) -> Tensor:
        """The picture of `render` before it is rounded to 8 bits: [3, H, W] in about -1..1, not finite after overflow.

        `before_step` is called with the number of steps done; it may apply networks of other strengths.
        Raises `BadInput` for a size that is not a multiple of 8.
        """
        check_size(request.width, request.height)
        with self._lock, torch.no_grad():
            guidance = self._guidance(request)
            noise, generator = first_noise(self.architecture, request)
            scheduler = euler(self.alphas_cumprod, self.architecture.prediction_type, request.steps)
            with self._at_hand("unet") as unet:
                latents = denoise(unet, scheduler, noise, generator, guidance, before_step)
            with self._at_hand("vae") as vae:
                scaled = (latents / self.architecture.vae.scale).to(self.device)
                decoded: Tensor = vae.decode(scaled).sample[0]
                return decoded

    def _guidance(self, request: RenderRequest) -> Guidance:
        arch = self.architecture
        with self._at_hand("te") as text:
            tokens = self._tokenizer.tokens([request.negative, request.prompt], arch)
            placed = tuple(t.to(self.device) for t in tokens)
            conditioning = _without_empty_negative(arch, request, text.encode(placed))
        sizes = torch.tensor([[request.height, request.width, 0, 0, request.height, request.width]] * 2)
        added = added_conditioning(arch, conditioning.pooled, sizes.to(self.device))
        return Guidance(conditioning.context, added, self._beside(request), request.cfg)

    def _beside(self, request: RenderRequest) -> Tensor | None:
        """What an inpainting UNet is given when everything is to be painted: a full mask over an even grey picture."""
        if not self.architecture.inpainting:
            return None
        grey = torch.zeros(1, 3, request.height, request.width, device=self.device)
        with self._at_hand("vae") as vae:
            masked = vae.encode(grey).latent_dist.mode() * self.architecture.vae.scale
        return torch.cat([torch.ones_like(masked[:, :1]), masked], dim=1).to(self.dtype)

    @contextmanager
    def _at_hand(self, part: Part) -> Iterator[Any]:
        """The part's module on the device; afterwards the part is where it was."""
        absent = part not in self._there
        if absent:
            self._move(part, True)
        try:
            if part not in self._modules:
                self._modules[part] = self._build(part)
            yield self._modules[part]
        finally:
            if absent:
                self._move(part, False)

    def _build(self, part: Part) -> object:
        if part == "unet":
            return build_unet(self.architecture, self.tensors)
        if part == "te":
            return build_text(self.architecture, self.tensors)
        return build_vae(self.architecture, self.tensors)

    def _move(self, part: Part, there: bool) -> None:
        target = self.device if there else torch.device("cpu")
        self._there ^= {part}
        if target == self.device and self.device.type == "cpu":
            return
        self._modules.pop(part, None)  # it holds the storage that is being left
        for key in self._keys[part]:
            self.tensors[key] = self.tensors[key].to(target)


def part_of(key: str, arch: Architecture) -> Part | None:
    """Which part a checkpoint key belongs to; None for what nobody needs (EMA weights, schedules)."""
    if key.startswith("model.diffusion_model."):
        return "unet"
    if key.startswith("first_stage_model."):
        return "vae"
    return "te" if any(key.startswith(text.prefix) for text in arch.text) else None


def scaled_linear(steps: int = 1000, first: float = 0.00085, last: float = 0.012) -> Tensor:
    """alphas_cumprod [steps], float32: Stable Diffusion's "scaled linear" (latent-diffusion `make_beta_schedule`)."""
    betas = torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0).float()


def check_size(width: int, height: int) -> None:
    """Raise `BadInput` unless both are multiples of 8 from 8 to `LARGEST`."""
    if not (0 < width <= LARGEST and 0 < height <= LARGEST) or width % 8 or height % 8:
        expected = f"multiples of 8 in px, up to {LARGEST}"
        raise BadInput(Problem("size", "a picture cannot have this size", expected, f"{width}x{height}"))


def checkpoint_path(text: str) -> Path:
    """The checkpoint's path. Raises `BadInput` when there is no such file."""
    path = given_path("checkpoint", text)
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "there is no such file"
        raise BadInput(Problem("checkpoint", what, "a .safetensors or .ckpt checkpoint", str(path)))
    return path


def check_load(config: CheckpointConfig) -> None:
    """What can be told without reading the checkpoint. Raises `BadInput`, as `StandaloneModel.load` would."""
    checkpoint_path(config.checkpoint)
    chosen_dtype(config.model_precision, find_device(config.device))


def yaml_hints(path: Path) -> Hints:
    """What `<stem>.yaml` beside a checkpoint says, as in the WebUI; empty hints without one."""
    beside = path.with_suffix(".yaml")
    return hints_from_yaml(beside) if beside.is_file() else Hints()


def find_device(text: str) -> torch.device:
    """The device a setting names. Raises `BadInput` when this machine or this torch does not have it."""
    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(text)
    except RuntimeError:
        raise BadInput(Problem("device", "there is no such device", "auto, cpu, cuda, cuda:1 …", repr(text))) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        fix = "Use --device cpu, or install a torch built for your card."
        raise BadInput(Problem("device", "this card is not there", f"one of {count} CUDA devices", repr(text), fix))
    if device.type not in ("cpu", "cuda"):
        raise BadInput(Problem("device", "this kind of device is not supported", "auto, cpu, cuda", repr(text)))
    return device


def chosen_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype for the weights; None means: as in the file. Raises `BadInput` for fp16 on a CPU."""
    if precision == "auto":
        return torch.float32 if device.type == "cpu" else None
    if precision == "fp16" and device.type == "cpu":
        raise BadInput(Problem("model_precision", "a CPU cannot compute in fp16", "fp32 or bf16", "fp16"))
    return DTYPES[precision]


def _stored_dtype(tensors: Mapping[str, Tensor], arch: Architecture) -> torch.dtype:
    """The dtype most of the UNet is stored in; storage-only formats (fp8) count as fp16."""
    counts = Counter(t.dtype for key, t in tensors.items() if part_of(key, arch) == "unet" and t.is_floating_point())
    common = counts.most_common(1)[0][0]
    return common if common in DTYPES.values() else torch.float16


def _without_empty_negative(arch: Architecture, request: RenderRequest, both: Conditioning) -> Conditioning:
    """SDXL was trained with zeros, not with the encoding of "", where a caption was left out; hosts do the same."""
    if arch.family != "sdxl" or request.negative:
        return both
    keep = torch.tensor([0.0, 1.0], device=both.context.device, dtype=both.context.dtype)
    pooled = None if both.pooled is None else both.pooled * keep[:, None]
    return Conditioning(both.context * keep[:, None, None], pooled)
