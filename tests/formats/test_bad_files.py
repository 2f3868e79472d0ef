"""A hostile user's files: one clear `BadInput` that names the file, no crash, no memory from a lying number."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc

import pytest
import safetensors.torch
import tiny_table
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_ext.errors import BadInput
from lora_ext.formats import open_checkpoint, read_info, read_network

NAMES = tiny_table.names()


def good():
    return tiny_table.tensors_of(tiny_table.network(tiny_table.table()), NAMES.kohya)


def raw(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def slot(begin, end, shape=None, dtype="F32"):
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


WHOLE = safetensors.torch.save(good())
HEADER_END = 8 + int.from_bytes(WHOLE[:8], "little")

FILES = {
    "empty": (b"", "empty"),
    "one byte": (b"\0", "too short"),
    "header length 2^63": (struct.pack("<Q", 1 << 63) + b"{}", "no safetensors file"),
    "header length 2^64-1": (b"\xff" * 8 + b"{}", "no safetensors file"),
    "header cut off": (WHOLE[: HEADER_END // 2], "cut off"),
    "data cut off": (WHOLE[:-7], "cut off"),
    "no data": (WHOLE[:HEADER_END], "cut off"),
    "bytes too many": (WHOLE + b"\0\0", "no tensor owns"),
    "web page": (b"<!DOCTYPE html><html>Sign in</html>", "web page"),
    "web page with space": (b"\n\n <html>", "web page"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:x", "LFS"),
    "picture": (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "picture"),
    "text": (b"just some words in a file that is long enough", "no safetensors file|not a .safetensors"),
    "zeros": (b"\0" * 64, "not a .safetensors"),
    "no JSON": (raw(b"{nope}"), "JSON"),
    "JSON list": (raw(b"[1]"), "not a .safetensors"),
    "not UTF-8": (raw(b'{"\xff\xfe":1}'), "JSON"),
    "deep JSON": (raw(b'{"a":' * 50000), "JSON"),
    "name twice": (raw(b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{}}'), "twice"),
    "long digits": (raw(b'{"a":' + b"9" * 10000 + b"}"), "JSON"),
    "overlap": (raw({"a": slot(0, 8), "b": slot(4, 12)}, b"\0" * 12), "overlaps"),
    "same place": (raw({"a": slot(0, 8), "b": slot(0, 8)}, b"\0" * 8), "overlaps"),
    "hole": (raw({"a": slot(0, 4), "b": slot(8, 12)}, b"\0" * 12), "hole"),
    "end before begin": (raw({"a": slot(8, 4, [1])}, b"\0" * 12), "disagree"),
    "beyond the end": (raw({"a": slot(0, 1 << 40, [1 << 38])}, b"\0" * 12), "cut off"),
    "shape overflows": (raw({"a": slot(0, 8, [1 << 40, 1 << 40])}, b"\0" * 8), "disagree"),
    "shape negative": (raw({"a": slot(0, 8, [-1, -2])}, b"\0" * 8), "damaged"),
    "shape of floats": (raw({"a": slot(0, 8, [2.0])}, b"\0" * 8), "damaged"),
    "shape of bools": (raw({"a": slot(0, 4, [True])}, b"\0" * 4), "damaged"),
    "shape lies": (raw({"a": slot(0, 8, [3])}, b"\0" * 8), "disagree"),
    "many axes": (raw({"a": slot(0, 4, [1] * 1000)}, b"\0" * 4), "damaged"),
    "offsets three": (raw({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 4]}}, b"\0" * 4), "damaged"),
    "dtype unknown": (raw({"a": slot(0, 4, [1], "F99")}, b"\0" * 4), "number type"),
    "dtype list": (raw({"a": slot(0, 4, [1], ["F32"])}, b"\0" * 4), "number type"),
    "entry no object": (raw({"a": 7}), "no JSON object"),
    "metadata no object": (raw({"__metadata__": "x"}), "metadata"),
    "metadata number": (raw({"__metadata__": {"ss_v2": 1}}), "ss_v2"),
    "zip of nothing": (b"PK\x03\x04" + b"\0" * 40, "archive"),
    "pickle cut off": (b"\x80\x02]", "safe to open"),
}


@pytest.mark.parametrize("case", FILES)
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_damaged_files(tmp_path, case, suffix):
    content, word = FILES[case]
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    for read in (lambda: read_network(path, NAMES), lambda: open_checkpoint(path)):
        with pytest.raises(BadInput, match=word) as caught:
            read()
        assert str(path) in str(caught.value)
        assert len(caught.value.problems) == 1
        assert caught.value.problems[0].fix.endswith("."), "what to do is not told"
    if case not in {"no data", "data cut off"}:
        with pytest.raises(BadInput):
            read_info(path)


@pytest.mark.parametrize("case", ["header length 2^63", "beyond the end", "shape overflows", "deep JSON"])
def test_nothing_is_allocated_from_a_lying_number(tmp_path, case):
    (tmp_path / "a.safetensors").write_bytes(FILES[case][0])
    tracemalloc.start()
    with pytest.raises(BadInput):
        read_network(tmp_path / "a.safetensors", NAMES)
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


def test_header_of_100_mb_is_refused_unread(tmp_path):
    with (tmp_path / "a.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 100 << 20) + b"{")
        file.truncate(101 << 20)
    tracemalloc.start()
    with pytest.raises(BadInput, match="header is too long"):
        read_network(tmp_path / "a.safetensors", NAMES)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_flipped_bytes_or_cut_is_read_or_refused(tmp_path_factory, data):
    content = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, HEADER_END + 50))
        content[at] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.sampled_from([len(content), len(content) - 1, HEADER_END, 100]))]
    path = tmp_path_factory.mktemp("fuzz") / "a.safetensors"
    path.write_bytes(content)
    try:
        read_network(path, NAMES)
    except BadInput as e:
        assert e.problems


def test_checkpoint_tensors_are_private_to_us(tmp_path):
    safetensors.torch.save_file({"a": torch.ones(4)}, tmp_path / "a.safetensors")
    before = (tmp_path / "a.safetensors").read_bytes()
    tensors, _ = open_checkpoint(tmp_path / "a.safetensors")
    tensors["a"].zero_()
    assert (tmp_path / "a.safetensors").read_bytes() == before


@pytest.mark.parametrize("bad", ["no/such.safetensors", ".", "a\0b", "x" * 5000])
def test_paths_that_are_no_file(tmp_path, bad):
    with pytest.raises(BadInput):
        open_checkpoint(tmp_path / bad)


@pytest.mark.skipif(not hasattr(os, "symlink") or os.name == "nt", reason="symlinks need rights on this system")
def test_symlink_loop(tmp_path):
    (tmp_path / "a.safetensors").symlink_to(tmp_path / "b.safetensors")
    (tmp_path / "b.safetensors").symlink_to(tmp_path / "a.safetensors")
    with pytest.raises(BadInput, match=r"a\.safetensors"):
        open_checkpoint(tmp_path / "a.safetensors")


def test_misaligned_data_is_read(tmp_path):
    header = raw({"a": slot(0, 8)})
    header = raw(json.dumps({"a": slot(0, 8)}).encode() + b" " * (1 if len(header) % 4 == 0 else 0))
    (tmp_path / "a.safetensors").write_bytes(header + struct.pack("<2f", 1, 2))
    assert open_checkpoint(tmp_path / "a.safetensors")[0]["a"].tolist() == [1, 2]
