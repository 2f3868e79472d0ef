"""What a prompt's tags come to on one model: networks, and how strong each is at every moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from lora_ext.adapters import Network
from lora_ext.errors import BadInput, Problem
from lora_ext.formats import NameTable, ReadResult
from lora_ext.hosts.first_ranks import first_ranks, taken_whole
from lora_ext.hosts.library import Library
from lora_ext.hosts.prompt import WantedLora
from lora_ext.hosts.schedule import Moment
from lora_ext.patching import Strengths

OFF = Strengths(0.0, 0.0)

Embeddings = Mapping[str, Mapping[str, Tensor]]
"""Bundled embeddings by the word that calls them, as `ReadResult` has them."""


@dataclass(frozen=True)
class Selection:
    """Networks with the tags that ask for them; several tags of one network add up."""

    shares: dict[Network, tuple[WantedLora, ...]]
    embeddings: Embeddings = field(default_factory=dict)

    @property
    def changes(self) -> bool:
        """Whether a strength on the UNet changes from step to step."""
        return any(tag.schedule is not None and tag.schedule.changes for tag in self._tags())

    def at(self, moment: Moment) -> dict[Network, Strengths]:
        """What the patcher is asked for at a moment; networks that are off are not in it."""
        found = {network: _sum(network, tags, moment) for network, tags in self.shares.items()}
        return {network: strengths for network, strengths in found.items() if strengths != OFF}

    def _tags(self) -> Iterator[WantedLora]:
        for tags in self.shares.values():
            yield from tags


def select(wanted: Sequence[WantedLora], library: Library, names: NameTable) -> tuple[Selection, tuple[Problem, ...]]:
    """Load what tags ask for. What cannot be used is reported and hinders no other."""
    # every file is looked at, also for a strength that only rises later
    asked = [replace(tag, strengths=Strengths(), schedule=None) for tag in wanted]
    usable, problems = library.resolve(asked, names)
    shares: dict[Network, tuple[WantedLora, ...]] = {}
    embeddings: dict[str, Mapping[str, Tensor]] = {}
    remarks: list[Problem] = []
    for tag in wanted:
        found = _loaded(tag, library, names)
        if found is not None and found.network in usable:
            remarks += _remarks(tag, found.network)
            network = found.network if tag.dyn is None else first_ranks(found.network, tag.dyn)
            shares[network] = (*shares.get(network, ()), tag)
            embeddings.update(found.embeddings)
    return Selection(shares, embeddings), (*problems, *remarks)


def _loaded(tag: WantedLora, library: Library, names: NameTable) -> ReadResult | None:
    try:
        return library.load(tag.name, names)
    except BadInput:
        return None  # told by `resolve`


def _sum(network: Network, tags: Sequence[WantedLora], moment: Moment) -> Strengths:
    strengths = [tag.at(moment) for tag in tags]
    if all(tag.blocks is None for tag in tags):
        return Strengths(sum(s.unet for s in strengths), sum(s.text for s in strengths))
    by_layer = {
        layer: sum(
            one.of(layer) * (1.0 if tag.blocks is None else tag.blocks.factor(layer))
            for tag, one in zip(tags, strengths, strict=True)
        )
        for layer in network.adapters
    }
    return Strengths(1.0, 1.0, by_layer) if any(by_layer.values()) else OFF


def _remarks(tag: WantedLora, network: Network) -> Iterator[Problem]:
    """What is done otherwise than the tag may have been meant."""
    if tag.elements:
        yield Problem(tag.name, "weights of elements (lbwe=) are not supported and left out", got=tag.elements)
    unnamed = tag.blocks.unnamed(network.adapters) if tag.blocks is not None else ()
    if tag.blocks is not None and unnamed:
        what = f"its {tag.blocks.count} block weights have no place for {', '.join(unnamed)}, which get 0"
        yield Problem(tag.name, what)
    if tag.dyn is not None and taken_whole(network):
        what = f"dyn={tag.dyn} cuts plain LoRA layers; {taken_whole(network)} others are taken whole"
        yield Problem(tag.name, what)
    has_text = any(layer.component != "unet" for layer in network.adapters)
    if has_text and tag.schedule is not None and tag.schedule.text_changes:
        what = "the text encoder works once, before the first step, and takes the strength of that step"
        yield Problem(tag.name, what, got=f"{tag.at(Moment()).text:g}")
