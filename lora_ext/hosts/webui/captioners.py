"""The WebUI's own describers of pictures: DeepBooru and BLIP, used as its Interrogate buttons use them."""

from __future__ import annotations

import os
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from modules import deepbooru, devices, images, lowvram, modelloader, paths, shared
from modules.call_queue import queue_lock
from PIL import Image

from lora_ext.captioner import Captioners, Describe, Tag, Weights
from lora_ext.errors import BadInput, Problem
from lora_ext.hosts.webui.job import job

SIDE = 512
"""Pixels of DeepBooru's input."""

RATING = "rating:"


def captioners() -> Captioners:
    """What this host brings, and where its models are kept."""
    return Captioners((DEEPBOORU, BLIP), Path(paths.models_path) / "captioners")


@dataclass(frozen=True)
class HostCaptioner:
    """One file in a folder of the host's models, and the host's own code over it."""

    name: str
    label: str
    kind: Literal["tags", "sentence"]
    folder: str
    place: str
    """Where `file` is fetched from."""
    file: str
    megabytes: int
    loaded: Callable[[], AbstractContextManager[Describe]]

    @property
    def address(self) -> str:
        return f"{self.place}/{self.file}"

    def weights(self) -> Weights:
        place, ending = Path(paths.models_path) / self.folder, Path(self.file).suffix
        try:
            present = any(path.suffix == ending for path in place.iterdir())
        except OSError:
            present = False
        return Weights(present, str(place), self.address, self.megabytes)

    def fetch(self, progress: Callable[[int, int], None], stop: Callable[[], bool]) -> None:
        """By the host's own downloader; its terminal shows how far it is, and it cannot be stopped."""
        progress(0, 0)
        place = os.path.join(paths.models_path, self.folder)
        try:
            modelloader.load_file_from_url(self.address, model_dir=place, file_name=self.file)
        except (urllib.error.URLError, OSError) as e:
            what = f"{self.file} cannot be fetched ({getattr(e, 'reason', None) or e})"
            fix = f"Or put {self.address} into {place} by hand."
            raise BadInput(Problem("captioner", what, fix=fix)) from e

    @contextmanager
    def opened(self) -> Iterator[Describe]:
        with queue_lock, job("describing pictures"), self.loaded() as describe:
            yield describe


@contextmanager
def _deepbooru() -> Iterator[Describe]:
    deepbooru.model.start()
    unwanted = {word.strip().replace(" ", "_") for word in shared.opts.deepbooru_filter_tags.split(",")}
    try:
        yield lambda image: _tags(image, unwanted)
    finally:
        deepbooru.model.stop()


def _tags(image: Image.Image, unwanted: set[str]) -> list[Tag]:
    pixels = np.array(images.resize_image(2, image.convert("RGB"), SIDE, SIDE), dtype=np.float32)[None] / 255
    network = deepbooru.model.model
    with torch.no_grad(), devices.autocast():
        scores = network(torch.from_numpy(pixels).to(devices.device, devices.dtype))[0].float().cpu().tolist()
    found = [Tag(name, score) for name, score in zip(network.tags, scores, strict=True) if name not in unwanted]
    return sorted((tag for tag in found if not tag.name.startswith(RATING)), key=lambda tag: -tag.score)


@contextmanager
def _blip() -> Iterator[Describe]:
    """The sentence of the host's "Interrogate CLIP" without the artists and styles behind it."""
    lowvram.send_everything_to_cpu()
    devices.torch_gc()
    host = shared.interrogator
    if host.blip_model is None:
        host.blip_model = host.load_blip_model()
        if not shared.cmd_opts.no_half and not host.running_on_cpu:
            host.blip_model = host.blip_model.half()
    before = host.dtype
    host.blip_model = host.blip_model.to(devices.device_interrogate)
    host.dtype = next(host.blip_model.parameters()).dtype
    try:
        yield lambda image: str(host.generate_caption(image.convert("RGB")))
    finally:
        host.dtype = before
        host.unload()


DEEPBOORU = HostCaptioner(
    "deepbooru",
    "DeepBooru (WebUI)",
    "tags",
    folder="torch_deepdanbooru",
    place="https://github.com/AUTOMATIC1111/TorchDeepDanbooru/releases/download/v1",
    file="model-resnet_custom_v3.pt",
    megabytes=615,
    loaded=_deepbooru,
)
"""DeepDanbooru: tags of anime pictures."""

BLIP = HostCaptioner(
    "blip",
    "BLIP (WebUI)",
    "sentence",
    folder="BLIP",
    place="https://storage.googleapis.com/sfr-vision-language-research/BLIP/models",
    file="model_base_caption_capfilt_large.pth",
    megabytes=855,
    loaded=_blip,
)
