"""WD taggers (SmilingWolf's, trained on Danbooru's tags), run by onnxruntime or by timm, whichever is there."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from lora_ext.captioner import Describe, Tag, Weights, fetch
from lora_ext.errors import BadInput, Problem

KNOWN = {
    "wd-vit-tagger-v3": 380,
    "wd-swinv2-tagger-v3": 450,
    "wd-convnext-tagger-v3": 400,
    "wd-eva02-large-tagger-v3": 1260,
}
"""Names of the models and about how many megabytes each is."""

OWNER = "SmilingWolf"

TAGS = "selected_tags.csv"

CHARACTER, RATING = "4", "9"
"""Kinds of tags in that file; ratings are no words for a caption."""

ENGINES = ("onnxruntime", "timm")

FILES = {"onnxruntime": ("model.onnx",), "timm": ("config.json", "model.safetensors")}
"""What each engine needs beside the list of tags."""

SLOW = {"TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider", "AzureExecutionProvider"}
"""Of onnxruntime: some build an engine for minutes before the first picture, one asks a server."""

Scores = Callable[[Image.Image], NDArray[np.float32]]


@dataclass(frozen=True)
class WdTagger:
    """One tagger in a folder of its own."""

    folder: Path
    megabytes: int = 0
    """0: it is the user's own and can be fetched from nowhere."""

    kind: Literal["tags"] = "tags"

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def label(self) -> str:
        return self.folder.name

    def weights(self) -> Weights:
        engines = _engines()
        present = any(self._has(engine) for engine in engines or ENGINES)
        source = f"{_site()}/{OWNER}/{self.name}" if self.megabytes else ""
        lacking = "" if engines else " or ".join(ENGINES)
        if engines and not present and any(self._has(engine) for engine in ENGINES):
            lacking = next(engine for engine in ENGINES if self._has(engine))
        return Weights(present, str(self.folder), source, self.megabytes, lacking)

    def fetch(self, progress: Callable[[int, int], None], stop: Callable[[], bool]) -> None:
        engine = next(iter(_engines()), ENGINES[0])
        source = f"{_site()}/{OWNER}/{self.name}"
        names = (TAGS, *FILES[engine])
        fix = f"Or put {', '.join(names)} from {source} into {self.folder} by hand."
        fetch({f"{source}/resolve/main/{name}": self.folder / name for name in names}, progress, stop, fix)

    @contextmanager
    def opened(self, stop: Callable[[], bool]) -> Iterator[Describe]:
        engine = next((one for one in _engines() if self._has(one)), None)
        if engine is None:
            raise _bad(self.folder, "the model, or the package that runs it, is not there")
        names = _names(self.folder / TAGS)
        scores = _onnx(self.folder) if engine == "onnxruntime" else _timm(self.folder, len(names))

        def say(image: Image.Image) -> list[Tag]:
            found = scores(image)
            if len(found) != len(names):
                raise _bad(self.folder, f"the model knows {len(found)} tags and {TAGS} has {len(names)}")
            tags = [
                Tag(name, float(score), kind == CHARACTER)
                for (name, kind), score in zip(names, found, strict=True)
                if kind != RATING
            ]
            return sorted(tags, key=lambda tag: -tag.score)

        yield say

    def _has(self, engine: str) -> bool:
        return all((self.folder / name).is_file() for name in (TAGS, *FILES[engine]))


def wd_taggers(folder: Path) -> list[WdTagger]:
    """The known ones, there or not, and whatever else lies in the folder."""
    known = [WdTagger(folder / name, megabytes) for name, megabytes in KNOWN.items()]
    try:
        others = sorted(path for path in folder.iterdir() if (path / TAGS).is_file() and path.name not in KNOWN)
    except OSError:
        others = []
    return [*known, *map(WdTagger, others)]


def _engines() -> list[str]:
    return [name for name in ENGINES if importlib.util.find_spec(name) is not None]


def _site() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _names(path: Path) -> list[tuple[str, str]]:
    try:
        with path.open(encoding="utf8", newline="") as file:
            return [(row["name"], row["category"]) for row in csv.DictReader(file)]
    except (OSError, KeyError, csv.Error, UnicodeDecodeError) as e:
        raise _bad(path, f"the list of tags cannot be read ({e})") from e


def _onnx(folder: Path) -> Scores:
    """Input [1, H, W, 3], float32 0..255, BGR; output [1, tags], 0..1 (the models' own example)."""
    runtime = _package("onnxruntime")
    providers = [name for name in runtime.get_available_providers() if name not in SLOW]
    try:
        session = runtime.InferenceSession(str(folder / "model.onnx"), providers=providers)
    except _failures() as e:
        raise _bad(folder / "model.onnx", f"the model cannot be read ({' '.join(str(e).split())[:200]})") from e
    entry = session.get_inputs()[0]
    side = entry.shape[1]
    if len(entry.shape) != 4 or entry.shape[3] != 3 or not isinstance(side, int):
        raise _bad(folder / "model.onnx", "this is another kind of model", "an input [N, H, W, 3]", str(entry.shape))

    def scores(image: Image.Image) -> NDArray[np.float32]:
        pixels = np.asarray(square(image, side), dtype=np.float32)[None, :, :, ::-1]
        found: NDArray[np.float32] = session.run(None, {entry.name: np.ascontiguousarray(pixels)})[0]
        return found.reshape(-1)

    return scores


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, AttributeError, RuntimeError) as e:  # made for another numpy, torch or CUDA
        what = f"the package {name} is installed and cannot be used ({' '.join(str(e).split())[:200]})"
        raise BadInput(Problem("captioner", what, fix="Install one that fits this Python's other packages.")) from e


def _failures() -> tuple[type[Exception], ...]:
    """What onnxruntime raises over broken files; its classes have no base of their own."""
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented")
    return tuple(getattr(state, name) for name in (*names, "RuntimeException"))


def _timm(folder: Path, tags: int) -> Scores:
    """Input [1, 3, H, W], normalised, BGR; output logits (the models' own example for timm)."""
    timm = _package("timm")
    try:
        config = json.loads((folder / "config.json").read_bytes())
        shape = config["pretrained_cfg"]
        model = timm.create_model(config["architecture"], num_classes=tags, **config.get("model_args", {}))
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as e:
        reason = " ".join(str(e).split())[:200]
        fix = "Fetch its files again, or install a newer timm."
        raise _bad(folder, f"timm {timm.__version__} cannot read the model ({reason})", fix=fix) from e
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device).eval()
    mean, std = (torch.tensor(shape[name]).view(3, 1, 1) for name in ("mean", "std"))

    def scores(image: Image.Image) -> NDArray[np.float32]:
        pixels = torch.from_numpy(np.array(square(image, shape["input_size"][-1]), dtype=np.float32) / 255.0)
        entry = ((pixels.permute(2, 0, 1) - mean) / std)[[2, 1, 0]]
        with torch.no_grad():
            found: NDArray[np.float32] = torch.sigmoid(model(entry[None].to(device)))[0].float().cpu().numpy()
        return found

    return scores


def square(image: Image.Image, side: int) -> Image.Image:
    """The whole picture in the middle of a white square."""
    longer = max(image.size)
    padded = Image.new("RGB", (longer, longer), "white")
    padded.paste(image, ((longer - image.width) // 2, (longer - image.height) // 2))
    return padded.resize((side, side), Image.Resampling.BICUBIC)


def _bad(path: Path, what: str, expected: str = "", got: str = "", fix: str = "Fetch its files again.") -> BadInput:
    return BadInput(Problem("captioner", f"{path.name}: {what}", expected, got, fix))
