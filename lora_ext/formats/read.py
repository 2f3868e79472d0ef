"""Reading a network file for one model."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from lora_ext.adapters import Adapter, LoraAdapter, Network, adapter_for, kind_of, split_bias
from lora_ext.errors import BadInput, Problem
from lora_ext.formats.bundled import is_embedding, read_embeddings
from lora_ext.formats.checkpoint import Layout, metadata_of, open_layout, outline, tensors_in
from lora_ext.formats.dialects import as_adapters_read
from lora_ext.formats.family import family_of
from lora_ext.formats.file_bytes import whole_file
from lora_ext.formats.finite import all_finite
from lora_ext.formats.fitting import of_another_input
from lora_ext.formats.found import Found
from lora_ext.formats.hashes import content_identity
from lora_ext.formats.names import NameTable
from lora_ext.formats.peft_config import PeftSettings, peft_settings
from lora_ext.formats.refusal import broken_layers, nothing_fits, placed, refuse_other_models
from lora_ext.formats.safetensors_file import Header
from lora_ext.formats.sorting import sort_by_layer
from lora_ext.layers import Family, LayerName

LARGEST = 16 << 30
"""Bytes of a network. SDXL's whole difference in float32 is 14 GB; sparse files may claim any size at no cost."""
ROOM_FOR_NAMES = 1 << 20
AHEAD = 2
"""Files whose bytes are read before their turn: what they wait for is the system, which hands out memory page by page.
More of them would be more memory at once."""


@dataclass(frozen=True)
class ReadResult:
    """A network and what of its file was not used.

    `unmatched` names every tensor that found no layer in this model, or no kind of adapter; its length is the count.
    That is how the layers of a whole SDXL LoRA come out that a pruned model (SSD-1B) has not. `embeddings` are the
    textual inversion embeddings in the file, by the word that calls them: {`string_to_param.*`: [vectors, width]} or
    {`clip_l`: …, `clip_g`: …}, float32, finite. They are not applied here: a host registers them while the network is
    in use.
    """

    network: Network
    unmatched: tuple[str, ...]
    family_of_file: Family | None
    embeddings: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)


def read_network(
    path: str | os.PathLike[str], names: NameTable, name: str | None = None, *, as_stored: bool = False
) -> ReadResult:
    """Read a .safetensors or .pt network for the model of `names`; numbers become float32, bit for bit from the file.

    Every kind and spelling that kohya's trainer, LyCORIS, PEFT, diffusers, HCP-Diffusion and cloneofsimo's trainer
    write. Raises `BadInput`, one line per problem, when the file is damaged, was made for another model, fits no layer,
    or a layer's tensors do not fit.

    What this model does not have is left out and named in `unmatched`: the rest is what the file means here. A file
    with one broken layer (NaN, a factor without its partner, a size that no layer asks for) is refused whole: its
    layers were trained together, what broke one may have touched others unseen, and a LoRA that is missing is noticed
    at once where one that lacks a piece is not, a hundred pictures long. The message counts the broken layers.

    `as_stored`: a plain LoRA keeps the file's precision, in half the memory and time. It applies as the same bits, but
    is not to be trained.
    """
    plan = _Plan.of(Path(path), names)
    return plan.made(plan.bytes(), name, as_stored)


def read_networks(paths: Sequence[Path], names: NameTable, *, as_stored: bool = False) -> list[ReadResult | BadInput]:
    """`read_network` of several files, in order, each its network or what it raises.

    The bytes of some are read while the networks of others are made, unless torch was told to use one thread, too.
    No thread is left afterwards.
    """
    threads = min(AHEAD, torch.get_num_threads())
    if len(paths) < 2 or threads < 2:
        return [_alone(path, names, as_stored) for path in paths]
    done: list[ReadResult | BadInput] = []
    with ThreadPoolExecutor(threads, "lora-ext read") as reader:
        begun: deque[Begun] = deque()
        for path in paths:
            begun.append(_begun(path, names, reader))
            if len(begun) > threads:
                done.append(_ended(begun.popleft(), as_stored))
        while begun:
            done.append(_ended(begun.popleft(), as_stored))
    return done


@dataclass(frozen=True)
class _Plan:
    """What a file's names and shapes tell; its numbers were not read."""

    path: Path
    names: NameTable
    layout: Layout
    metadata: dict[str, str]
    sketch: dict[str, Tensor]
    family: Family | None
    settings: PeftSettings
    layers: list[Found]
    unmatched: list[str]

    @classmethod
    def of(cls, path: Path, names: NameTable) -> _Plan:
        """Whatever can be told is told before a number is read: whole checkpoints lie in such folders, too."""
        layout = open_layout(path)
        metadata = metadata_of(layout)
        sketch = {key: tensor for key, tensor in outline(layout).items() if not is_embedding(key, metadata)}
        family = family_of({key: tuple(tensor.shape) for key, tensor in sketch.items()}, metadata)
        settings = peft_settings(path, metadata)
        layers, unmatched = sort_by_layer(path, sketch, names, family in (None, names.table.family), settings)
        refuse_other_models(path, names, family, sketch, len(layers), unmatched)
        if sketch and not layers:
            raise nothing_fits(path, names, sketch)
        _check_size(path)
        return cls(path, names, layout, metadata, sketch, family, settings, layers, unmatched)

    def bytes(self) -> Tensor:
        """The file's content, in memory of its own."""
        return whole_file(self.path, mapped=False)

    def made(self, content: Tensor, name: str | None, as_stored: bool) -> ReadResult:
        """The network. Raises `BadInput`."""
        tensors = tensors_in(self.path, self.layout, content)
        embeddings = read_embeddings(self.path, tensors, self.metadata)
        as_stored = as_stored and self._storable(content)
        made = _Made(self.path, self.names, self.settings, len(self.layers) == 1, as_stored)
        for found in self.layers:
            made.add(found, {own: tensors[key] for own, key in found.keys.items()})
        if made.problems:
            raise broken_layers(self.path, self.names, self.family, made.problems, made.broken, len(self.layers))
        if not made.adapters and (self.sketch or not embeddings):
            raise nothing_fits(self.path, self.names, self.sketch)
        network = Network(name or self.path.stem, made.adapters, self.metadata, content_identity(made.content))
        return ReadResult(network, tuple(sorted([*self.unmatched, *made.unused])), self.family, embeddings)

    def _storable(self, content: Tensor) -> bool:
        """Whether a network may keep the numbers as they are: all are finite, and nearly all are plain LoRA's, so that
        no memory is held in vain."""
        if not isinstance(self.layout, Header) or self._plain_bytes <= 0.95 * content.numel() - ROOM_FOR_NAMES:
            return False
        return all_finite(self.layout, content)

    @property
    def _plain_bytes(self) -> int:
        plain = (found.tensors.values() for found in self.layers if kind_of(found.tensors) is LoraAdapter)
        return sum(tensor.numel() * tensor.element_size() for some in plain for tensor in some)


def _alone(path: Path, names: NameTable, as_stored: bool) -> ReadResult | BadInput:
    try:
        return read_network(path, names, as_stored=as_stored)
    except BadInput as e:
        return e


Begun = tuple[_Plan, "Future[Tensor]"] | BadInput
"""A file whose names fit and whose bytes are being read; or why they are not."""


def _begun(path: Path, names: NameTable, reader: Executor) -> Begun:
    try:
        plan = _Plan.of(path, names)
    except BadInput as e:
        return e
    return plan, reader.submit(plan.bytes)


def _ended(begun: Begun, as_stored: bool) -> ReadResult | BadInput:
    if isinstance(begun, BadInput):
        return begun
    plan, reading = begun
    try:
        return plan.made(reading.result(), None, as_stored)
    except BadInput as e:
        return e


def _check_size(path: Path) -> None:
    size = path.stat().st_size
    if size > LARGEST:
        raise BadInput(Problem(os.fspath(path), "the file is too large for a network", f"{LARGEST} bytes", str(size)))


class _Made:
    """The adapters made so far, what they were made of, and what went wrong."""

    def __init__(self, path: Path, names: NameTable, settings: PeftSettings, alone: bool, as_stored: bool) -> None:
        """`alone`: the file has one layer, and nothing is left of it without that. `as_stored`: see `read_network`;
        all numbers must be known to be finite."""
        self.adapters: dict[LayerName, Adapter] = {}
        self.content: dict[LayerName, Mapping[str, Tensor]] = {}
        self.unused: list[str] = []
        self.problems: list[Problem] = []
        self.broken = 0
        self._path = path
        self._names = names
        self._settings = settings
        self._alone = alone
        self._as_stored = as_stored

    def add(self, found: Found, given: Mapping[str, Tensor]) -> None:
        """Make the adapters of one layer: of its weight, of its bias, or of both."""
        try:
            tensors = as_adapters_read(found.prefix, found.layer, given, self._settings)
            weight, bias = split_bias(tensors)
            if weight and kind_of(weight) is None:
                self.unused += found.keys.values()
                return
            if weight and not self._alone and of_another_input(found.layer, weight):
                self.unused += [found.keys[name] for name in weight if name in found.keys]
            elif weight:
                self._make(found.layer.name, weight)
            if bias and found.layer.name.bias in self._names.table.layers:
                self._make(found.layer.name.bias, bias)
            elif bias:
                self.unused += [found.keys[name] for name in bias if name in found.keys]
        except BadInput as e:
            self.broken += 1
            self.problems += [self._placed(found, problem) for problem in e.problems]

    def _make(self, name: LayerName, tensors: Mapping[str, Tensor]) -> None:
        shape = self._names.table.layers[name].shape
        self.adapters[name] = adapter_for(tensors, shape, as_stored=self._as_stored)
        self.content[name] = tensors

    def _placed(self, found: Found, problem: Problem) -> Problem:
        """Name the file and the tensor as the file spells it."""
        place = found.keys.get(problem.field, f"{found.prefix}.{problem.field}")
        return placed(problem, f"{os.fspath(self._path)}: {place}")
