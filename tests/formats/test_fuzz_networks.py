"""Networks of nonsense: whatever header and tensors a file has, it is read or refused, at once and within its size."""

from __future__ import annotations

import json
import struct
import time

import tiny_table
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lora_ext.errors import BadInput
from lora_ext.formats import read_info, read_network

NAMES = tiny_table.names()
LAYERS = [layer for layer in NAMES.table.layers.values() if layer.op != "bias"]
STEMS = [spelling for layer in LAYERS for spelling in list(NAMES.spellings(layer))[:12]]
ENDS = (
    *("lora_down.weight", "lora_up.weight", "lora_mid.weight", "alpha", "dora_scale", "scale", "scalar"),
    *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "diff", "diff_b", "w_norm", "b_norm"),
    *("lokr_w1", "lokr_w2", "lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b", "lokr_t2", "bias", "weight"),
    *("oft_blocks", "rescale", "on_input", "a1.weight", "a2.weight", "b1.weight", "b2.weight", "lora_A.weight"),
    *("lora_B.default.weight", "lora_magnitude_vector", "oft_r", "oft_R.weight", "boft_R", "boft_s", "ia3_l"),
    *("___.layer.W_down", "___.layer.W_up", "___.alpha", "___.layer.rank_groups", "processor.to_q_lora.up.weight"),
    *("bias_indices", "bias_values", "bias_size", "lora_up.bias", "string_to_param.*", "nonsense"),
)
BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I64": 8, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "C64": 8, "I32": 4}

keys = st.one_of(
    st.builds("{}.{}".format, st.sampled_from(STEMS), st.sampled_from(ENDS)),
    st.builds(
        "{}:{}:{}".format, st.sampled_from(["unet", "text_encoder"]), st.integers(0, 9), st.sampled_from(["up", "down"])
    ),
    st.builds("bundle_emb.{}.{}".format, st.text(max_size=3), st.sampled_from(ENDS)),
    st.text(max_size=12),
    st.sampled_from(["0", "1", "2", ".", "lora:", "__metadata__"]),
)
sizes = st.one_of(st.sampled_from([0, 1, 2, 3, 4, 8, 12, 24]), st.integers(0, 1 << 63))
shapes = st.lists(st.sampled_from([0, 1, 2, 3, 4, 8, 12, 24]), max_size=5)
metadata = st.dictionaries(
    st.sampled_from(["ss_v2", "lora_adapter_metadata", "x", "unet"]), st.text(max_size=20), max_size=3
)


@st.composite
def files(draw):
    """A header that is mostly right, with some lies, and data of any bits."""
    header, at = {}, 0
    for key in draw(st.lists(keys, min_size=1, max_size=8, unique=True)):
        dtype, shape = draw(st.sampled_from(sorted(BYTES))), draw(shapes)
        end = at + BYTES[dtype] * torch.Size(shape).numel()
        if end - at > 1 << 16:
            continue
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    if draw(st.booleans()):
        header["__metadata__"] = draw(metadata)
    if draw(st.integers(0, 4)) == 0 and header:
        entry = header[draw(st.sampled_from(sorted(header)))]
        lie = draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
        entry[lie] = draw(st.one_of(st.none(), st.lists(sizes, max_size=3), st.text(max_size=3)))
    raw = json.dumps(header).encode()
    fill = draw(st.sampled_from([b"\0", b"\x3c", b"\xff", b"\x7f\x80", b"\0\0\x80\x3f"]))
    length = draw(st.sampled_from([len(raw)] * 6 + [0, len(raw) - 1, len(raw) + 1, 1 << 62]))
    return struct.pack("<Q", length) + raw + (fill * at)[:at]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(files())
def test_nonsense_is_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("f") / "a.safetensors"
    path.write_bytes(content)
    start = time.process_time()
    try:
        result = read_network(path, NAMES)
    except BadInput as e:
        assert e.problems and str(path) in str(e)
    else:
        adapters = result.network.adapters
        held = sum(p.numel() * p.element_size() for adapter in adapters.values() for p in adapter.parameters())
        # float32 of one byte each, and what one block shared by all stands for
        assert held <= 64 * len(content) + 4096
        for name, adapter in adapters.items():
            delta = adapter.delta(torch.zeros(NAMES.table.layers[name].shape))
            assert delta.shape == NAMES.table.layers[name].shape
    try:
        read_info(path)
    except BadInput as e:
        assert str(path) in str(e)
    assert time.process_time() - start < 5
