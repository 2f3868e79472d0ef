"""The sheet of the learning bench: the same prompts and seeds with and without each LoRA, one below the other."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from demo.world import Pixels

COLUMNS = 8
SHOWN = 96  # px of a picture
_GAP, _MARGIN, _LINE = 4, 120, 18


def sheet(rows: Sequence[tuple[str, str, Sequence[Pixels]]]) -> Image.Image:
    """Rows of (title above or "", label at the left, pictures)."""
    width = _MARGIN + COLUMNS * (SHOWN + _GAP)
    height = sum(SHOWN + _GAP + (_LINE if title else 0) for title, *_ in rows) + _GAP
    page = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default()
    top = _GAP
    for title, label, pictures in rows:
        if title:
            pen.text((_GAP, top + 3), title, fill="black", font=font)
            top += _LINE
        pen.text((_GAP, top + SHOWN // 2 - 5), label, fill="black", font=font)
        for i, picture in enumerate(pictures[:COLUMNS]):
            shown = Image.fromarray(picture).resize((SHOWN, SHOWN), Image.Resampling.BICUBIC)
            page.paste(shown, (_MARGIN + i * (SHOWN + _GAP), top))
        top += SHOWN + _GAP
    return page
