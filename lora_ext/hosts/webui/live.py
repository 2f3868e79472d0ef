"""`LiveModel` over the model the WebUI has loaded."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from modules import devices, lowvram, sd_models, shared
from modules.call_queue import queue_lock
from PIL import Image

from lora_ext.adapters import Network
from lora_ext.errors import BadInput, Problem
from lora_ext.formats import NameTable
from lora_ext.hosts.keepsake import move, tensors_of, undisturbed
from lora_ext.hosts.webui import weights
from lora_ext.hosts.webui.builtin import Builtin
from lora_ext.hosts.webui.job import job
from lora_ext.hosts.webui.picture import paint
from lora_ext.hosts.weight_file import weight_file
from lora_ext.layers import LayerTable
from lora_ext.live import CheckpointInfo, Part, RenderRequest, Session
from lora_ext.model import detect, layer_table
from lora_ext.model.architecture import Architecture
from lora_ext.patching import ApplyReport, Strengths, WeightPatcher

ATTRIBUTE = "lora_ext_live"
"""Where a host model keeps its `WebuiModel`: they live and die together, also when the host caches several models."""

NEEDED = ("model", "first_stage_model", "cond_stage_model", "parameterization", "alphas_cumprod_original")
"""What every SD1, SD2 and SDXL model of the host has."""

log = logging.getLogger("lora_ext")


class WebuiModel:
    """`LiveModel` of one host model object. Get it from `current` or `of`."""

    kind = "a1111"

    def __init__(self, model: weights.HostModel) -> None:
        """Raises `BadInput` for models that are not SD1, SD2 or SDXL."""
        self._model = model
        self._tensors = weights.LiveTensors(model)
        self.architecture: Architecture = _described(model)
        self.table: LayerTable = layer_table(self.architecture)
        self.names = NameTable(self.table)
        self.patcher = WeightPatcher(
            lambda: self.tensors, self.table, lambda: weight_file(model.sd_checkpoint_info.filename)
        )
        self._versions: dict[str, int] = {}
        self._record = self._seen = model.sd_checkpoint_info
        self._fits = True
        self._borrower = 0  # thread that is inside `session`

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        """Checkpoint key -> live tensor."""
        return self._tensors()

    @property
    def device(self) -> torch.device:
        """Where the host computes."""
        return torch.device(devices.device)

    @property
    def dtype(self) -> torch.dtype:
        """Of the UNet's weights."""
        return weights.unet_dtype(self._model)

    @property
    def checkpoint(self) -> CheckpointInfo:
        """As the host shows it."""
        found = self._model.sd_checkpoint_info
        return CheckpointInfo(found.name_for_extra, os.path.basename(found.filename), found.sha256 or "")

    @property
    def alphas_cumprod(self) -> torch.Tensor:
        """[1000], float32, on the CPU; as trained, without the host's settings for sampling."""
        return self._model.alphas_cumprod_original.detach().float().cpu()

    def apply(self, wanted: Mapping[Network, Strengths]) -> ApplyReport:
        """`patcher.apply` for use between pictures: notices first whether the host has loaded other weights."""
        self._notice_reload()
        try:
            return self.patcher.apply(wanted)
        finally:
            self._remember()

    def fits(self, model: weights.HostModel) -> bool:
        """Whether this still describes `model`: the host loads other checkpoints into it, and may cut blocks away."""
        if model.sd_checkpoint_info is not self._seen:
            self._seen, self._fits = model.sd_checkpoint_info, False
            self._fits = _described(model) == self.architecture
        return self._fits

    def _remember(self) -> None:
        """After a refusal too: it has put the networks before it back, and writing counts, whoever does it."""
        live = self.tensors
        keys = {self.table.layers[name].key for network in self.patcher.state for name in network.adapters}
        self._versions = {key: live[key]._version for key in keys}
        self._record = self._model.sd_checkpoint_info

    def _notice_reload(self) -> None:
        """The host loads another checkpoint of the same build into the same tensors; their write counters tell."""
        if not self.patcher.state:
            return
        live = self.tensors
        written = [key for key, version in self._versions.items() if live[key]._version != version]
        if written and len(written) == len(self._versions):
            self.patcher.forget()
        elif written and self._record is not self._model.sd_checkpoint_info:
            self._keep_loaded({key: live[key] for key in written})
        elif written:
            log.warning("Someone else changed %d weights while LoRAs were on; they are put back.", len(written))
            self.patcher.clear()

    def _keep_loaded(self, loaded: Mapping[str, torch.Tensor]) -> None:
        """The new checkpoint holds only a part of the model (no text encoder, say); the rest stays, without LoRAs."""
        with torch.no_grad():
            copies = {key: tensor.detach().clone() for key, tensor in loaded.items()}
            self.patcher.clear()
            for key, copy in copies.items():
                loaded[key].copy_(copy)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """See `LiveModel.session`. Waits for the host's queue.

        Raises `BadInput` when the host runs in a way that leaves no model to train (lowvram, fp8, another checkpoint).
        """
        with ExitStack() as stack:
            stack.enter_context(queue_lock)
            self._check()
            stack.enter_context(job("lora training"))
            Builtin.find().empty(self._model)
            stack.enter_context(self._without_networks())
            stack.enter_context(self._usual_places())
            stack.enter_context(undisturbed([self._model]))  # type: ignore[list-item]  # a module, seen as a protocol
            self._borrower = threading.get_ident()
            stack.callback(setattr, self, "_borrower", 0)
            yield self

    def place(self, *parts: Part) -> None:
        """See `Session.place`."""
        self._recall()
        roots = weights.parts(self._model)
        for name in sorted(roots, key=lambda name: name in parts):  # leave first: the card may hold no more than one
            target = self.device if name in parts else devices.cpu
            move((tensor, target) for tensor in tensors_of(roots[name]))
        devices.torch_gc()

    def render(self, request: RenderRequest) -> Image.Image:
        """See `LiveModel.render`: the host's own sampler, extra networks kept out."""
        if self._borrower == threading.get_ident():
            return self._render_borrowed(request)
        with queue_lock:
            self._check()
            with job("lora preview"):
                return paint(request)

    def _render_borrowed(self, request: RenderRequest) -> Image.Image:
        places = [(t, t.device) for root in weights.parts(self._model).values() for t in tensors_of(root)]
        try:
            if self._model.lowvram:
                self.place()  # the host's own hooks bring what is needed
            else:
                self.place("unet", "te", "vae")
            return paint(request)
        finally:
            self._recall()
            move(places)

    @contextmanager
    def _without_networks(self) -> Iterator[None]:
        self._notice_reload()
        before = dict(self.patcher.state)
        self.patcher.clear()
        self.patcher.release()
        try:
            yield
        finally:
            self.patcher.clear()
            self.apply(before)

    @contextmanager
    def _usual_places(self) -> Iterator[None]:
        """With medvram one part at a time is on the card, and the host remembers which."""
        before = lowvram.module_in_gpu
        try:
            yield
        finally:
            self._recall()
            if before is not None:
                before.to(devices.device)
                lowvram.module_in_gpu = before

    def _recall(self) -> None:
        if self._model.lowvram:
            lowvram.send_everything_to_cpu()

    def _check(self) -> None:
        if sd_models.model_data.sd_model is not self._model:
            raise BadInput(Problem("", "the checkpoint was changed meanwhile", fix="Start again."))
        if self._model.lowvram and shared.cmd_opts.lowvram:
            what = "the WebUI runs with --lowvram, which keeps the model in pieces"
            raise BadInput(Problem("", what, fix="Start it with --medvram or without either to train."))
        if devices.fp8:
            what = "the WebUI holds the weights in fp8, too coarse to train on"
            raise BadInput(Problem("", what, fix="Set Settings > Optimizations > FP8 weight to Disable."))


def current() -> WebuiModel:
    """The loaded model; waits while the host is still loading its first one. Raises `BadInput`."""
    model = shared.sd_model
    if model is None:
        raise BadInput(Problem("", "the WebUI has no checkpoint loaded", fix="Choose one at the top of the page."))
    return of(model)


def of(model: weights.HostModel) -> WebuiModel:
    """The `WebuiModel` of a host model. Raises `BadInput` for models that are not SD1, SD2 or SDXL."""
    known: object = getattr(model, ATTRIBUTE, None)
    if not isinstance(known, WebuiModel) or not known.fits(model):
        if not all(hasattr(model, name) for name in NEEDED):
            raise BadInput(Problem("checkpoint", "this kind of model is not supported", "SD 1.x, SD 2.x or SDXL"))
        known = WebuiModel(model)
        setattr(model, ATTRIBUTE, known)
    return known


def _described(model: weights.HostModel) -> Architecture:
    return detect(weights.tensors(model), weights.hints(model))
