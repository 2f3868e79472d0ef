"""The whole state of a run on the disk: to go on after a crash as if nothing had happened."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lora_ext.config import TrainConfig, Value, flat, settings
from lora_ext.data import Picture
from lora_ext.errors import BadInput, Problem
from lora_ext.formats import write_atomically

FORMAT = 1
PIECE = 1 << 16  # bytes read at each end of a picture's file
SAMPLES = 16  # numbers looked at in each tensor of a checkpoint

UNREADABLE = (pickle.UnpicklingError, zipfile.BadZipFile)

MAY_CHANGE = frozenset(
    {
        "epochs",
        "max_steps",
        "output",
        "overwrite",
        "images",
        "save_every_steps",
        "save_every_epochs",
        "save_precision",
        "state_every",
        "resume",
        "on_divergence",
        "bad_steps",
        "validation_every",
        "log",
        "tensorboard",
        "cache",
        "cache_folder",
        "decode_threads",
        "checkpointing",
    }
)
"""Settings that a resumed run may have otherwise; so may all previews. Everything else must be as it was."""


@dataclass(frozen=True)
class Identity:
    """What a state belongs to: the settings, the checkpoint and every picture, by digest."""

    settings: dict[str, Value]
    checkpoint_name: str
    checkpoint: str
    pictures: dict[str, str]

    @classmethod
    def of(cls, config: TrainConfig, name: str, tensors: Mapping[str, Tensor], pictures: Sequence[Picture]) -> Identity:
        """Reads a little of every picture and of every tensor."""
        kept = {k: v for k, v in flat(config).items() if k not in MAY_CHANGE and not k.startswith("preview_")}
        return cls(kept, name, tensors_digest(tensors), {p.name: _picture_digest(p) for p in pictures})

    def differences(self, before: Identity) -> Iterator[Problem]:
        """What is not as it was when the state `before` was saved, each by the name of what differs."""
        known = settings(TrainConfig)
        for key, value in self.settings.items():
            was = before.settings.get(key, known[key].default)
            if was != value:
                yield Problem(key, "the run to be resumed had another value", repr(was), repr(value))
        if self.checkpoint != before.checkpoint:
            got = self.checkpoint_name
            yield Problem("checkpoint", "the run to be resumed had another checkpoint", before.checkpoint_name, got)
        if self.pictures != before.pictures:
            yield Problem("images", "the run to be resumed had other pictures", got=self._changed(before))

    def _changed(self, before: Identity) -> str:
        new = [f"{name} is new" for name in self.pictures.keys() - before.pictures.keys()]
        gone = [f"{name} is gone" for name in before.pictures.keys() - self.pictures.keys()]
        other = [
            f"{name} or its caption changed"
            for name, digest in self.pictures.items()
            if before.pictures.get(name, digest) != digest
        ]
        listed = sorted([*new, *gone, *other]) or ["their order changed"]
        return "; ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")


@dataclass(frozen=True)
class State:
    """A saved run. `tensors` and `numbers` are what `Run.capture` gave."""

    identity: Identity
    step: int
    content: dict[str, object]


class StateFile:
    """`<name>.state` beside the LoRA, and `<name>.state.previous`, the one before it; no host lists them."""

    def __init__(self, output: Path) -> None:
        self.current = output.with_name(f"{output.stem}.state")
        self.previous, self._fresh = (self.current.with_name(f"{self.current.name}.{w}") for w in ("previous", "new"))

    def write(self, state: State) -> None:
        """Replace the state; what was there becomes the previous one. At every moment one of them is whole.

        Raises `BadInput` when the disk refuses; then both are as they were.
        """
        buffer = io.BytesIO()
        identity = vars(state.identity)
        torch.save({"format": FORMAT, "identity": identity, "step": state.step, "content": state.content}, buffer)
        try:
            self.current.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._fresh, [buffer.getvalue()])
            if self.current.exists():
                os.replace(self.current, self.previous)
            os.replace(self._fresh, self.current)
        except OSError as e:
            raise BadInput(Problem("state_every", "the state could not be saved", got=e.strerror or str(e))) from e

    def read(self) -> State | None:
        """The newest state that is whole; None when there is none at all. Raises `BadInput` when all are damaged."""
        found = [path for path in (self._fresh, self.current, self.previous) if path.is_file()]
        for path in sorted(found, key=lambda p: p != self.current):
            state = _read(path)
            if state is not None:
                return state
        if found:
            raise BadInput(Problem("resume", "the saved state is damaged", got=str(self.current)))
        return None

    def forget(self) -> None:
        """Remove what an earlier run of the same name left."""
        for path in (self._fresh, self.current, self.previous):
            path.unlink(missing_ok=True)


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """A digest of a few numbers of every tensor: tells checkpoints apart without reading gigabytes."""
    digest = hashlib.sha256()
    picked = []
    for key in sorted(tensors):
        tensor = tensors[key].detach()
        digest.update(f"{key} {tuple(tensor.shape)}".encode())
        flat_view = tensor.reshape(-1)
        picked.append(flat_view[:: max(1, flat_view.numel() // SAMPLES)][:SAMPLES].float().cpu())
    if picked:
        digest.update(torch.cat(picked).numpy().tobytes())
    return digest.hexdigest()


def _picture_digest(picture: Picture) -> str:
    """Of how a picture is used and of both ends of its file."""
    facts = f"{picture.caption!r} {picture.repeats} {picture.bucket} {picture.resized} {picture.crop}"
    digest = hashlib.sha256(facts.encode())
    with picture.path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(f"{size}".encode())
        digest.update(file.read(PIECE))
        file.seek(max(0, size - PIECE))
        digest.update(file.read(PIECE))
    return digest.hexdigest()


def _read(path: Path) -> State | None:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "TypedStorage is deprecated")  # torch 2.1 warns of its own reading
            found = torch.load(path, map_location="cpu", weights_only=True)
        if found["format"] != FORMAT:
            return None
        return State(Identity(**found["identity"]), int(found["step"]), dict(found["content"]))
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, EOFError, *UNREADABLE):
        return None  # half written, or not ours
