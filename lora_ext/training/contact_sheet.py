"""A sheet as one picture for keeping: files above the columns, prompt, strength and seed beside the rows."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from lora_ext.training.comparison import Row

MOST_PIXELS = 1 << 26
LONGEST_SIDE = 20_000  # px; browsers and viewers refuse much more
GAP = 8
BESIDE = 220  # px for the labels of the rows
LINES = 12
"""Of a row's label; the rest of a long prompt is in the file's text."""

FONTS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf", "arial.ttf"),
    *("Arial Unicode.ttf", "NotoSansCJK-Regular.ttc", "msyh.ttc", "YuGothM.ttc", "meiryo.ttc", "PingFang.ttc"),
    *("Hiragino Sans GB.ttc", "wqy-microhei.ttc", "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf"),
)
"""Looked for where the system keeps its fonts; the first that has all letters of the labels is taken."""

INK, PAPER = (20, 20, 20), (250, 250, 250)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Cells = Mapping[tuple[int, int], bytes]
"""Pictures as files by column and row; those that were not painted are missing."""


def contact_sheet(titles: Sequence[str], rows: Sequence[Row], cells: Cells, size: tuple[int, int]) -> bytes:
    """The whole sheet as PNG. `titles` stand above the columns, `size` is (width, height) of each picture.

    A sheet too large to be opened is scaled down. All labels are in the file's text `comparison` too.
    """
    across, down = _scaled(size, len(titles), len(rows))
    font = _font("".join(titles) + "".join(row.prompt for row in rows), max(12, min(20, across // 24)))
    beside = [_wrapped("\n".join(_label(row)), font, BESIDE - 2 * GAP)[:LINES] for row in rows]
    above = [_wrapped(title, font, across) for title in titles]
    line = _line_height(font)
    top = GAP + max(map(len, above)) * line + GAP
    heights = [max(down, len(lines) * line) for lines in beside]
    whole = BESIDE + len(titles) * (across + GAP), top + sum(height + GAP for height in heights)
    sheet = Image.new("RGB", whole, PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, lines in enumerate(above):
        _write(draw, (BESIDE + column * (across + GAP), GAP), lines, font)
    y = top
    for at, lines in enumerate(beside):
        _write(draw, (GAP, y), lines, font)
        for column in range(len(titles)):
            found = cells.get((column, at))
            if found is not None:
                sheet.paste(_picture(found, (across, down)), (BESIDE + column * (across + GAP), y))
        y += heights[at] + GAP
    return _png(sheet, titles, rows)


def _label(row: Row) -> tuple[str, str, str]:
    strength = f"strength {row.strength:g}" if row.strength else "strength 0: the model alone"
    return strength, f"seed {row.seed}", row.prompt


def _scaled(size: tuple[int, int], columns: int, rows: int) -> tuple[int, int]:
    """Width and height of a picture in a sheet that is not too large."""
    width, height = size
    scale = min(
        1.0,
        (LONGEST_SIDE - BESIDE - columns * GAP) / (columns * width),
        (LONGEST_SIDE - rows * GAP) / (rows * height),
        math.sqrt(MOST_PIXELS / (columns * rows * width * height)),
    )
    return max(16, int(width * scale)), max(16, int(height * scale))


def _picture(file: bytes, size: tuple[int, int]) -> Image.Image:
    with Image.open(io.BytesIO(file)) as found:
        picture = found.convert("RGB")
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)


def _png(sheet: Image.Image, titles: Sequence[str], rows: Sequence[Row]) -> bytes:
    columns = "; ".join(title.replace("\n", ", ") for title in titles)
    lines = [f"Columns: {columns}", *("Row: " + ", ".join(_label(row)) for row in rows)]
    text = PngInfo()
    text.add_itxt("comparison", "\n".join(lines).encode("utf8", "replace").decode("utf8"))
    file = io.BytesIO()
    sheet.save(file, format="PNG", pnginfo=text)
    return file.getvalue()


def _write(draw: ImageDraw.ImageDraw, at: tuple[int, int], lines: Sequence[str], font: Font) -> None:
    for number, text in enumerate(lines):
        draw.text((at[0], at[1] + number * _line_height(font)), text, fill=INK, font=font)


def _line_height(font: Font) -> int:
    box = font.getbbox("Ag|")
    return int((box[3] - box[1]) * 1.35) + 2


def _wrapped(text: str, font: Font, width: int) -> list[str]:
    """Lines that are no wider; a word that is gets cut anywhere, as scripts without spaces need it."""
    text = text if isinstance(font, ImageFont.FreeTypeFont) else text.encode("latin-1", "replace").decode("latin-1")
    wide = {letter: font.getlength(letter) for letter in set(text) - {"\n"}}  # to measure whole lines takes long
    out: list[str] = []
    for paragraph in text.split("\n"):
        line, long = "", 0.0
        for letter in paragraph:
            if line and long + wide[letter] > width:
                kept, space, rest = line.rpartition(" ")
                kept, rest = (kept, rest) if space and letter != " " else (line, "")
                out.append(kept.rstrip())
                line, long = rest, sum(wide[one] for one in rest)
            if line or letter != " ":
                line, long = line + letter, long + wide[letter]
        out.append(line)
    return out


def _font(text: str, size: int) -> Font:
    letters = frozenset(text) - frozenset(" \n\t")
    known = [font for font in (_loaded(name, size) for name in FONTS) if font is not None]
    return next((f for f in known if not _missing(f, letters)), known[0] if known else ImageFont.load_default())


@lru_cache(maxsize=64)
def _loaded(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, size, layout_engine=ImageFont.Layout.BASIC)
    except OSError:
        return None


def _missing(font: ImageFont.FreeTypeFont, letters: frozenset[str]) -> bool:
    """Whether it draws its sign for unknown letters for one of these."""
    unknown = bytes(font.getmask("\U0010ffff"))
    return any(bytes(font.getmask(letter)) == unknown for letter in letters if ord(letter) > 0x7F)
