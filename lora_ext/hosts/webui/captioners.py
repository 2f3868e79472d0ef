"""The WebUI's own describers of pictures: DeepBooru and BLIP, used as its Interrogate buttons use them."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from modules import deepbooru, devices, images, lowvram, modelloader, paths, shared
from modules.call_queue import queue_lock
from PIL import Image

from lora_ext.captioner import Captioners, Describe, Tag, Weights, fetch
from lora_ext.errors import BadInput, Problem
from lora_ext.hosts.webui import words
from lora_ext.hosts.webui.job import job

SIDE = 512
"""Pixels of DeepBooru's input."""

RATING = "rating:"

TURN = 3.0
"""Seconds for which the host's queue is ours; then whoever waits comes in, with the card to itself."""

BETWEEN = 0.1
"""Seconds between questions whether it is our turn again."""

BROKEN = (
    OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError, RuntimeError,
    pickle.UnpicklingError,
)  # fmt: skip
"""What the host's code raises over files that are not what they seem."""


def captioners() -> Captioners:
    """What this host brings, and where its models are kept."""
    return Captioners((DEEPBOORU, BLIP), Path(paths.models_path) / "captioners")


class Model(Protocol):
    """The host's code around one model. Called under its queue lock."""

    def bring(self) -> None:
        """Have it on the card, loaded from disk if need be."""

    def say(self, image: Image.Image) -> str | Sequence[Tag]:
        """What is in an RGB picture."""

    def put_away(self) -> None:
        """Off the card, unless the host's settings say that it stays."""


@dataclass(frozen=True)
class HostCaptioner:
    """One file in a folder of the host's models, and the host's own code over it."""

    name: str
    label: str
    kind: Literal["tags", "sentence"]
    folder: str
    site: str
    """Where `file` is fetched from."""
    file: str
    megabytes: int
    model: Model
    speaks: bool = False
    """It needs a list of words beside its file."""

    @property
    def address(self) -> str:
        return f"{self.site}/{self.file}"

    @property
    def place(self) -> Path:
        return Path(paths.models_path) / self.folder

    def weights(self) -> Weights:
        if self._found() and self.speaks and not words.present():
            return Weights(False, str(words.place()), words.source(), words.MEGABYTES)
        return Weights(bool(self._found()), str(self.place), self.address, self.megabytes)

    def _found(self) -> Sequence[str]:
        """As the host looks for it: it takes the first file of the right ending, whatever its name."""
        found: list[str] = modelloader.load_models(str(self.place), ext_filter=[Path(self.file).suffix])
        return found

    def fetch(self, progress: Callable[[int, int], None], stop: Callable[[], bool]) -> None:
        """Ours, not the host's downloader: that one waits for ever on a dead connection and cannot be stopped."""
        fix = f"Or put {self.address} into {self.place} by hand."
        if not self._found() and not fetch({self.address: self.place / self.file}, progress, stop, fix):
            return
        if self.speaks and not words.present():
            words.fetch()

    @contextmanager
    def opened(self, stop: Callable[[], bool]) -> Iterator[Describe]:
        turns = _Turns(self, stop)
        try:
            yield turns.say
        finally:
            turns.leave()

    def bring(self) -> None:
        """See `Model.bring`. Raises `BadInput` over broken files."""
        try:
            self.model.bring()
        except torch.cuda.OutOfMemoryError:
            raise
        except BROKEN as e:
            file = next(iter(self._found()), self.file)
            reason = " ".join(str(e).split())[:200]
            what = f"the model {Path(file).name} cannot be loaded: it is damaged, or of another kind ({reason})"
            raise BadInput(Problem("captioner", what, fix=f"Delete {file} and download it again.")) from e


class _Turns:
    """The host's queue, held for some pictures and given to others in between."""

    def __init__(self, captioner: HostCaptioner, stop: Callable[[], bool]) -> None:
        self._captioner = captioner
        self._stop = stop
        self._held = ExitStack()
        self._until: float | None = None
        """When the turn is over; None: it is not ours."""

    def say(self, image: Image.Image) -> str | Sequence[Tag] | None:
        """What is in the picture; None when stopped before it was our turn."""
        if self._until is not None and time.monotonic() > self._until:
            self.leave()
            time.sleep(BETWEEN)
        if self._until is None and not self._enter():
            return None
        return self._captioner.model.say(image.convert("RGB"))

    def _enter(self) -> bool:
        while not queue_lock.acquire(blocking=False):
            if self._stop():
                return False
            time.sleep(BETWEEN)
        self._held.callback(queue_lock.release)
        self._held.enter_context(job("describing pictures"))
        self._captioner.bring()
        self._held.callback(self._captioner.model.put_away)
        self._until = time.monotonic() + TURN
        return True

    def leave(self) -> None:
        """Give the card and the queue back."""
        self._held.close()
        self._until = None


class _DeepBooru:
    """Of the host's `deepbooru.model`, which its DeepBooru button uses."""

    def bring(self) -> None:
        try:
            deepbooru.model.start()
        except BaseException:
            deepbooru.model.model = None  # it has one of random weights now, and would take that for loaded
            raise

    def say(self, image: Image.Image) -> list[Tag]:
        network = deepbooru.model.model
        pixels = np.array(images.resize_image(2, image, SIDE, SIDE), dtype=np.float32)[None] / 255
        with torch.no_grad(), devices.autocast():
            scores = network(torch.from_numpy(pixels).to(devices.device, devices.dtype))[0].float().cpu().tolist()
        unwanted = {word.strip().replace(" ", "_") for word in shared.opts.deepbooru_filter_tags.split(",")}
        found = [Tag(name, score) for name, score in zip(network.tags, scores, strict=True) if name not in unwanted]
        return sorted((tag for tag in found if not tag.name.startswith(RATING)), key=lambda tag: -tag.score)

    def put_away(self) -> None:
        deepbooru.model.stop()


class _Blip:
    """The sentence of the host's "Interrogate CLIP" without the artists and styles behind it."""

    def bring(self) -> None:
        lowvram.send_everything_to_cpu()
        devices.torch_gc()
        host = shared.interrogator
        if host.blip_model is None:
            with words.offline():
                host.blip_model = host.load_blip_model()
            if not shared.cmd_opts.no_half and not host.running_on_cpu:
                host.blip_model = host.blip_model.half()
        try:
            host.blip_model = host.blip_model.to(devices.device_interrogate)
        except BaseException:
            host.blip_model.to(devices.cpu)  # the half of it that fitted is not left on a card that is full
            devices.torch_gc()
            raise

    def say(self, image: Image.Image) -> str:
        host = shared.interrogator
        before = host.dtype
        host.dtype = next(host.blip_model.parameters()).dtype
        try:
            return str(host.generate_caption(image))
        finally:
            host.dtype = before

    def put_away(self) -> None:
        shared.interrogator.unload()


DEEPBOORU = HostCaptioner(
    "deepbooru",
    "DeepBooru (WebUI)",
    "tags",
    folder="torch_deepdanbooru",
    site="https://github.com/AUTOMATIC1111/TorchDeepDanbooru/releases/download/v1",
    file="model-resnet_custom_v3.pt",
    megabytes=615,
    model=_DeepBooru(),
)
"""DeepDanbooru: tags of anime pictures."""

BLIP = HostCaptioner(
    "blip",
    "BLIP (WebUI)",
    "sentence",
    folder="BLIP",
    site="https://storage.googleapis.com/sfr-vision-language-research/BLIP/models",
    file="model_base_caption_capfilt_large.pth",
    megabytes=855,
    model=_Blip(),
    speaks=True,
)
