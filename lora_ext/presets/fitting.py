"""Makes a recipe fit the card: one measure after the other, the cheapest first, until it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from lora_ext.config import Value
from lora_ext.layers import Family
from lora_ext.presets.case import GIB, Case, Said
from lora_ext.presets.recipes import side

Fits = Callable[[Mapping[str, Value]], bool]
"""Whether settings fit the memory there is."""


@dataclass(frozen=True)
class _Costs:
    """Memory in GiB: the frozen weights, LoRA parameters (millions) per rank, activations of one picture at the
    family's own size without and with gradient checkpointing."""

    weights: float
    parameters: float
    activations: float
    checkpointed: float


COSTS: Mapping[Family, _Costs] = {
    # SD 1.x activations: 15.4 GB at batch 8 on a 24 GB card (LyCORIS), less the weights, by eight.
    "sd1": _Costs(2.1, 13.6 / 32, 1.6, 0.45),
    "sd2": _Costs(2.3, 13.6 / 32, 1.6, 0.45),
    "sdxl": _Costs(5.2, 85.1 / 32, 12.0, 1.5),
}
OVERHEAD = 0.6  # GiB that the driver and the allocator keep
BYTES_PER_PARAMETER = 16  # fp32 weight, gradient and AdamW's two averages
USABLE = 0.94  # of a card; the screen needs some


def rough(case: Case) -> Fits:
    """A rule of thumb for where nothing is known of the model but its family."""

    def fits(settings: Mapping[str, Value]) -> bool:
        return case.memory is None or rough_peak(case, settings) <= USABLE * case.memory

    return fits


def rough_peak(case: Case, settings: Mapping[str, Value]) -> int:
    """Bytes of memory at most, about."""
    costs = COSTS[case.family]
    native = 512 if case.family == "sd2" else side(case.family, case.prediction_type)
    area = (int(settings["resolution"]) / native) ** 2
    each = costs.checkpointed if settings["checkpointing"] else costs.activations
    parameters = costs.parameters * float(settings["rank"]) * 1e6 * BYTES_PER_PARAMETER / GIB
    return int((costs.weights + parameters + OVERHEAD + each * area * int(settings["batch_size"])) * GIB)


def fitted(case: Case, wanted: Mapping[str, Value], fits: Fits) -> tuple[dict[str, Value], list[Said]]:
    """The settings with as few cuts as the card asks for, or with a larger batch where there is room; and why."""
    settings = dict(wanted)
    if case.memory is None:
        return settings, [Said("No graphics card was found: training on the processor works, but takes very long.")]
    said: dict[str, Said] = {}  # by what was cut, so that a second cut replaces the word about the first
    for change, sentence in _measures(case, settings):
        if fits(settings):
            break
        settings |= change
        said[next(iter(change))] = sentence
    else:
        if not fits(settings):
            text = "It may still be too much for {0} GB. Close other programs first."
            said["more"] = Said(text, (case.gigabytes,))
    if said:
        return settings, list(said.values())
    return _roomy(case, settings, fits)


def _measures(case: Case, settings: Mapping[str, Value]) -> Iterator[tuple[dict[str, Value], Said]]:
    size = case.gigabytes
    if not settings["checkpointing"]:
        text = "Batch 1 and gradient checkpointing, because the card has {0} GB: slower by a third, much less memory."
        yield {"checkpointing": True}, Said(text, (size,))
    pixels = int(settings["resolution"])
    smaller = pixels * 3 // 4 // 64 * 64
    text = "Pictures at {0} px instead of {1}, because the card has {2} GB: fine details suffer a little."
    yield {"resolution": smaller}, Said(text, (smaller, pixels, size))
    rank = int(settings["rank"])
    if rank > 8:
        text = "Rank 8 instead of {0}, because the card has {1} GB."
        yield {"rank": 8, "alpha": float(settings["alpha"]) * 8 / rank}, Said(text, (rank, size))
    if settings["text_encoder_lr"]:
        yield {"text_encoder_lr": 0.0}, Said("The text encoder rests after all: the card has {0} GB.", (size,))
    smallest = max(256, pixels // 2)
    text = "Pictures at only {0} px, because the card has {1} GB."
    yield {"resolution": smallest}, Said(text, (smallest, size))


def _roomy(case: Case, settings: dict[str, Value], fits: Fits) -> tuple[dict[str, Value], list[Said]]:
    """No checkpointing, or a larger batch, where memory and pictures allow it; otherwise what stands already."""
    size = case.gigabytes
    if settings["checkpointing"] and fits({**settings, "checkpointing": False}):
        text = "No gradient checkpointing: the {0} GB of the card are enough without, and it is quicker."
        return {**settings, "checkpointing": False}, [Said(text, (size,))]
    most = 4 if case.pictures >= 60 else 2 if case.pictures >= 20 else 1
    for batch in (4, 2):
        if batch <= most and fits({**settings, "batch_size": batch}):
            text = "{0} pictures at a time: the card has {1} GB, and you have enough pictures."
            return {**settings, "batch_size": batch}, [Said(text, (batch, size))]
    if settings["checkpointing"]:
        return settings, [Said("Batch 1 and gradient checkpointing, which fits the {0} GB of the card.", (size,))]
    return settings, [Said("One picture at a time; the {0} GB of the card are enough for that.", (size,))]
