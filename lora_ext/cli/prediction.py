"""What a run will take, as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from lora_ext.training.estimate import Estimate

GB, MB = 2**30, 1e6


def prediction(found: Estimate, device: str) -> Iterator[str]:
    """Memory and file; the advice where it does not fit."""
    parts = ", ".join(f"{part.name} {_size(part.bytes)}" for part in found.parts)
    where = "of memory" if device == "cpu" else "on the card"
    yield f"Predicted: {_size(found.peak_vram_bytes)} {where} ({parts})"
    yield f"Predicted: a file of {found.file_bytes / MB:.1f} MB, {found.step_flops / 1e12:.3g} TFLOP per step"
    if found.fits is False:
        yield "Predicted: this does not fit. What helps, best first:"
        yield from (f"  {advice.field}: {advice.text}" for advice in found.advice)


def _size(number: int) -> str:
    return f"{number / GB:.2f} GB" if number >= GB / 10 else f"{number / MB:.1f} MB"
