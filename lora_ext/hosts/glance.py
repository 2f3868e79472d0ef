"""What a card needs to know of a file, read from its header without looking at every tensor in it.

A header lists hundreds of tensors, and to parse them all takes milliseconds; ten thousand files would take a minute.
Only the metadata is parsed here, and the few names that tell the family are searched for.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from lora_ext.errors import BadInput, Problem
from lora_ext.formats import read_info
from lora_ext.formats.family import family_of, foreign_model
from lora_ext.formats.safetensors_file import HEADER_LIMIT, METADATA
from lora_ext.hosts.training_facts import tag_counts
from lora_ext.layers import FAMILY_TITLES, Family

TAGS = 24
"""Most frequent tags of the training that a card can be found by."""
CROSS_ATTENTION = ("attn2_to_k", "attn2.to_k", "attn2_processor_to_k", "attn2.processor.to_k")
"""Layers whose width alone tells the family of nearly every file."""
TELLING = (
    # other pieces of names by which `family_of` tells
    *("lora_te2_", "oft_te2_", "lycoris_te2_", "text_encoder_2.", "clip_bigG.", "clip_g."),
    *("attn2_to_v", "attn2.to_v", "transformer_blocks_1_", "transformer_blocks.1.", "layers_12_", "layers.12."),
    *("down_blocks_0_attentions", "down_blocks.0.attentions", "input_blocks_1_1_", "input_blocks.1.1."),
)
LOOKS = 6  # tensors looked at for each sign
FIRST_LOOKS = 2  # the first layer's alpha and down, of which nearly always the second tells
FIRST = 1 << 15  # bytes that tell all of nearly every file: the metadata, the text encoder's tensors, the first block
USUAL = 1 << 17  # bytes read at once where those do not: most headers are shorter

START = f'{{"{METADATA}":'.encode()
SHAPE = re.compile(rb'"shape":\s*\[([\d,\s]*)\]')
HASH = re.compile("[0-9a-fA-F]{12,64}")

Object = dict[str, object]


@dataclass(frozen=True)
class Facts:
    """What is known of a file before it is read. `foreign`: the model it was made for, when it is none of ours.

    `complete` is False when more could be learnt by reading the whole list of tensors (`survey`).
    """

    alias: str = ""
    family: Family | None = None
    foreign: str = ""
    hash: str = ""
    trigger: str = ""
    base: str = ""
    tags: tuple[str, ...] = ()
    covers: bool = False
    metadata: bool = False
    complete: bool = True
    damage: str = ""

    @property
    def made_for(self) -> str:
        """The model in words, or nothing."""
        return self.foreign or (FAMILY_TITLES[self.family] if self.family else "")


def glance(path: str) -> Facts:
    """Facts of a .safetensors file; of another kind, none yet. Never raises: damage is a fact too."""
    if not path.lower().endswith(".safetensors"):
        return Facts(complete=False)
    try:
        early = _from_the_start(path)
        if early is not None:
            return early
        metadata, rest = _header(path)
    except BadInput as e:
        return Facts(damage=e.problems[0].what)
    except OSError as e:
        return Facts(damage=f"the file cannot be read: {e.strerror or e}")
    foreign, family = "", _told_by_width(rest)
    if family is None:
        foreign = foreign_model([rest.decode("utf8", "replace")]) or ""
        family = None if foreign else family_of(_shapes(rest, (*CROSS_ATTENTION, *TELLING)), metadata)
    return _facts(metadata, family, foreign, complete=bool(family or foreign))


def survey(path: str) -> Facts:
    """The same from the whole list of tensors, of .pt files too; some milliseconds. Never raises."""
    try:
        info = read_info(path)
    except BadInput as e:
        return Facts(damage=e.problems[0].what)
    except OSError as e:
        return Facts(damage=f"the file cannot be read: {e.strerror or e}")
    titles = {title: family for family, title in FAMILY_TITLES.items()}
    family = titles.get(info.made_for)
    foreign = "" if family or info.made_for == "unknown" else info.made_for
    return _facts(info.metadata, family, foreign, complete=True)


def header_metadata(path: str) -> dict[str, str]:
    """All of a .safetensors file's metadata; nothing for other and for damaged files."""
    if not path.lower().endswith(".safetensors"):
        return {}
    try:
        return _header(path)[0]
    except (BadInput, OSError):
        return {}


def _facts(metadata: Mapping[str, str], family: Family | None, foreign: str, *, complete: bool) -> Facts:
    written = metadata.get("sshs_model_hash", "")
    return Facts(
        alias=metadata.get("ss_output_name", ""),
        family=family,
        foreign=foreign,
        hash=written.lower() if HASH.fullmatch(written) else "",
        trigger=metadata.get("modelspec.trigger_phrase", ""),
        base=metadata.get("ss_sd_model_name", ""),
        tags=tuple(tag for tag, _ in tag_counts(metadata, TAGS)),
        covers=len(metadata.get("ssmd_cover_images", "")) > 8,
        metadata=bool(metadata),
        complete=complete,
    )


def _from_the_start(path: str) -> Facts | None:
    """Facts from the file's first piece; None when that does not hold all that a card needs. Raises `OSError`."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)  # no more is wanted than is asked for
        start, size = os.read(handle, FIRST), os.fstat(handle).st_size
    finally:
        os.close(handle)
    length = int.from_bytes(start[:8], "little")
    raw = start[8 : 8 + length]
    end = raw.find(b'"},"') + 2  # see `_split`
    if not raw.startswith(START) or end <= 2 or size < 8 + length or length > HEADER_LIMIT:
        return None
    family = _told_by_width(raw[end:])
    try:
        metadata = json.loads(raw[len(START) : end]) if family else None
    except (ValueError, RecursionError):
        return None
    return _facts(_texts(metadata), family, "", complete=True) if isinstance(metadata, dict) else None


def _header(path: str) -> tuple[dict[str, str], bytes]:
    """Metadata, and the part of the header that describes the tensors. Raises `BadInput`, `OSError`."""
    with open(path, "rb", buffering=0) as file:
        start = file.read(USUAL)
        length = int.from_bytes(start[:8], "little")
        if not 2 <= length <= HEADER_LIMIT:
            raise BadInput(Problem(path, "this is no safetensors file, or its start is damaged"))
        raw = start[8 : 8 + length]
        while len(raw) < length and (more := file.read(length - len(raw))):
            raw += more
    if len(raw) < length or not raw.startswith(b"{"):
        raise BadInput(Problem(path, "the file is cut off or damaged"))
    try:
        entry, rest = _split(raw)
    except (ValueError, RecursionError):
        raise BadInput(Problem(path, "the header is no valid JSON")) from None
    return _texts(entry if isinstance(entry, dict) else {}), rest


def _texts(metadata: Object) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if isinstance(value, str)}


def _split(raw: bytes) -> tuple[object, bytes]:
    """The metadata's entry and the rest. Where safetensors writes it, first, its end is seen without parsing all."""
    end = raw.find(b'"},"') + 2  # inside of a text the last quote would have a backslash before it
    if raw.startswith(START) and end > 2:
        try:
            return json.loads(raw[len(START) : end]), raw[end:]
        except ValueError:
            pass  # values that are no texts
    if METADATA.encode() not in raw:
        return {}, raw
    whole: Object = json.loads(raw)
    entry = whole.pop(METADATA, {})
    return entry, json.dumps(whole, separators=(",", ":")).encode()


def _told_by_width(header: bytes) -> Family | None:
    sign = next((sign for sign in CROSS_ATTENTION if sign.encode() in header), None)
    looks = (FIRST_LOOKS, LOOKS) if sign else ()
    found = (_family_of(tuple(_shapes(header, (sign or "",), count).items())) for count in looks)
    return next((family for family in found if family), None)


@lru_cache(maxsize=1024)
def _family_of(shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> Family | None:
    """Thousands of files have the same first layers."""
    return family_of(dict(shapes), {})


def _shapes(header: bytes, signs: Sequence[str], looks: int = LOOKS) -> dict[str, tuple[int, ...]]:
    """Shapes of the first tensors that have one of these pieces in their names."""
    return {name: shape for sign in signs for name, shape in _described(header, sign.encode(), looks)}


def _described(header: bytes, sign: bytes, looks: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    at = 0
    for _ in range(looks):
        at = header.find(sign, at)
        if at < 0:
            return
        begin, end = header.rfind(b'"', 0, at) + 1, header.find(b'"', at)
        close = header.find(b"}", end)
        found = SHAPE.search(header, end, close) if 0 < end < close else None
        if found:
            yield header[begin:end].decode("utf8", "replace"), tuple(int(n) for n in found[1].split(b",") if n.strip())
        at = max(close, at + 1)
