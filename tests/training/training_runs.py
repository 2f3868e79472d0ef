"""A model, some pictures and short runs for the tests of this room."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from checkpoints import checkpoint
from PIL import Image
from safetensors import safe_open

from lora_ext.config import CheckpointConfig, TrainConfig, read
from lora_ext.hosts.standalone import StandaloneModel
from lora_ext.training import Saved, Step, train

CAPTIONS = ("a red cat", "a blue dog", "the sea")


def model(family="sd1", precision="fp32"):
    """A tiny standalone model, shared: every run must give it back as it was."""
    return _model(family, precision)


@cache
def _model(family, precision):
    return StandaloneModel.load(CheckpointConfig(checkpoint=str(checkpoint(family)), model_precision=precision))


def pictures(folder, count=3, size=(64, 64)):
    """Random pictures with captions."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        low = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8))
        low.resize(size, Image.Resampling.BICUBIC).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(CAPTIONS[i % 3], encoding="utf8")
    return folder


def config(folder, **values):
    """Small and quick, unless told otherwise."""
    small = {
        "images": str(folder / "pictures"),
        "output": "x",
        "resolution": 64,
        "max_steps": 2,
        "rank": 2,
        "alpha": 2.0,
        "learning_rate": 1e-2,
        "preview_width": 64,
        "preview_height": 64,
        "preview_steps": 1,
        "save_precision": "fp32",
    }
    return read(TrainConfig, {**small, **values})


@dataclass
class Result:
    """What a run said and wrote."""

    folder: Path
    events: list = field(default_factory=list)

    def of(self, kind):
        return [e for e in self.events if isinstance(e, kind)]

    @property
    def steps(self):
        return self.of(Step)

    @property
    def path(self):
        return next(e.path for e in self.of(Saved) if e.final)

    @property
    def tensors(self):
        return contents(self.path)[0]

    @property
    def metadata(self):
        return contents(self.path)[1]


def run(folder, on=None, **values):
    """Train to the end."""
    if not (folder / "pictures").exists():
        pictures(folder / "pictures")
    result = Result(folder)
    for event in train(on or model(), config(folder, **values), output=folder / "out" / "x.safetensors"):
        result.events.append(event)
    return result


def contents(path):
    """Tensors and metadata of a file."""
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def fingerprint(live):
    """All that a session has to give back."""
    digests = {
        key: hashlib.sha256(t.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy().tobytes()).hexdigest()
        for key, t in live.tensors.items()
    }
    facts = {key: (t.requires_grad, t.dtype, t.device, _address(t), t.grad) for key, t in live.tensors.items()}
    return digests, facts, dict(live.patcher.state), live.patcher.originals_bytes


def _address(tensor):
    """Where it lies, on a CPU; what leaves a card for a while comes back to another place."""
    return tensor.data_ptr() if tensor.device.type == "cpu" else None


def same(a, b):
    """Equal tensors under equal names, bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
