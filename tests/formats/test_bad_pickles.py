"""A hostile user's pickles: nothing of them runs, lying numbers cost nothing, honest ones are read in both layouts."""

from __future__ import annotations

import os
import pickle
import struct
import tracemalloc
import zipfile

import pytest
import tiny_table
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_ext.errors import BadInput
from lora_ext.formats import open_checkpoint, read_info, read_network

NAMES = tiny_table.names()
STEM = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


class Evil:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def torch_zip(path, program, storages=None):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as z:
        z.writestr("archive/data.pkl", program)
        for key, content in (storages or {}).items():
            z.writestr(f"archive/data/{key}", content)
        z.writestr("archive/version", "3")


@pytest.mark.parametrize("layout", ["zip", "legacy", "bare"])
@pytest.mark.parametrize("call", [os.system, exec, eval, pickle.loads, getattr, __import__], ids=lambda f: f.__name__)
def test_malicious_pickle_runs_nothing(tmp_path, layout, call):
    mark = tmp_path / "owned"
    evil = {"state_dict": {"a": Evil(call, f"touch {mark}")}}
    path = tmp_path / "bad.ckpt"
    if layout == "bare":
        path.write_bytes(pickle.dumps(evil, 2))
    elif layout == "zip":
        torch_zip(path, pickle.dumps(evil, 2))
    else:
        torch.save(evil, path, _use_new_zipfile_serialization=False)
    for read in (lambda: open_checkpoint(path), lambda: read_network(path, NAMES), lambda: read_info(path)):
        with pytest.raises(BadInput, match=r"not safe to open.*asks to run") as caught:
            read()
        assert str(path) in str(caught.value)
    assert not mark.exists()


def pickled(*parts):
    return b"\x80\x02" + b"".join(parts) + b"."


def tensor_program(size, stride, count=4, offset=0, twice=None):
    """{"a": tensor} as torch writes it, with any numbers."""

    class Recorder(pickle._Pickler):
        def persistent_id(self, obj):
            return obj if isinstance(obj, tuple) and obj and obj[0] == "storage" else None

    class Tensor:
        def __init__(self, count):
            self.count = count

        def __reduce__(self):
            storage = ("storage", torch.FloatStorage, "0", "cpu", self.count)
            return torch._utils._rebuild_tensor_v2, (storage, offset, size, stride, False, {})

    import io

    out = io.BytesIO()
    Recorder(out, 2).dump({"a": Tensor(count), **({"b": Tensor(twice)} if twice else {})})
    return out.getvalue()


def test_tensor_program_is_what_torch_writes(tmp_path):
    torch_zip(tmp_path / "a.pt", tensor_program((2, 2), (2, 1)), {"0": struct.pack("<4f", 1, 2, 3, 4)})
    assert torch.equal(open_checkpoint(tmp_path / "a.pt")[0]["a"], torch.tensor([[1.0, 2], [3, 4]]))


@pytest.mark.parametrize(
    ("size", "stride", "count", "offset", "stored", "word"),
    [
        ((2, 3), (3, 1), 4, 0, 16, "beyond its storage"),
        ((2, 2), (2, 1), 4, 1, 16, "beyond its storage"),
        ((1 << 20, 1 << 20), (0, 0), 4, 0, 16, "beyond its storage"),
        ((-2, 2), (2, 1), 4, 0, 16, "damaged"),
        ((2, 2), (-2, 1), 4, 0, 16, "damaged"),
        ((2, 2), (2,), 4, 0, 16, "damaged"),
        ((2, 2), (2, 1), 1 << 40, 0, 16, "wrong size"),
        ((2, 2), (2, 1), 4, 0, 8, "wrong size"),
        ((2, 2), (2, 1), 4, 0, None, "missing"),
        ((2, 2), (2, 1), -4, 0, 16, "damaged"),
        ((2, 2), (2, 1), "4", 0, 16, "damaged"),
        ((2, 2), (2, 1), 4, -1, 16, "damaged"),
    ],
)
def test_lying_tensors(tmp_path, size, stride, count, offset, stored, word):
    storages = {} if stored is None else {"0": b"\0" * stored}
    torch_zip(tmp_path / "a.pt", tensor_program(size, stride, count, offset), storages)
    with pytest.raises(BadInput, match=word):
        open_checkpoint(tmp_path / "a.pt")


def test_one_storage_described_in_two_ways(tmp_path):
    torch_zip(tmp_path / "a.pt", tensor_program((2, 2), (2, 1), 4, 0, twice=1 << 30), {"0": b"\0" * 16})
    with pytest.raises(BadInput, match="two ways"):
        open_checkpoint(tmp_path / "a.pt")


G = b"ccollections\nOrderedDict\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
ATTACKS = {
    "memo index 2^32": (pickled(b"]r\xff\xff\xff\xff"), "no dictionary"),
    "bytearray of 2^40": (pickled(b"\x96" + struct.pack("<Q", 1 << 40)), "instruction"),
    "bytes of 2^62": (pickled(b"\x8e" + struct.pack("<Q", 1 << 62)), "safe to open"),
    "unicode of 2^40": (pickled(b"\x8d" + struct.pack("<Q", 1 << 40)), "safe to open"),
    "long of 2^31": (pickled(b"\x8b\xff\xff\xff\x7f"), "safe to open"),
    "frame of 2^40": (pickled(b"\x95" + struct.pack("<Q", 1 << 40)), "safe to open"),
    "extension": (pickled(b"\x82\x01"), "instruction"),
    "INST": (pickled(b"(ios\nsystem\n"), "instruction"),
    "OBJ": (pickled(b"(cos\nsystem\no"), "asks to run|instruction"),
    "stack global": (pickled(b"\x8c\x05posix\x8c\x06system\x93"), "asks to run"),
    "dotted name": (
        pickled(b"\x8c\x0bcollections\x8c\x1aOrderedDict.__init__.__doc__\x93"),
        "asks to run|safe to open",
    ),
    "change a function": (pickled(REBUILD, b"N}U\x0c__defaults__K\x01s\x86b"), "safe to open"),
    "change a class": (pickled(G, b"N}U\x03getK\x01s\x86b"), "safe to open"),
    "change the skipped class": (pickled(b"cnumpy\ndtype\n", b"N}U\x03getK\x01s\x86b"), "safe to open"),
    "call a skipped object": (pickled(b"cnumpy\ndtype\n)R)R"), "safe to open"),
    "call a number": (pickled(b"K\x01)R"), "safe to open"),
    "empty stack": (pickled(b"0"), "safe to open"),
    "no stop": (b"\x80\x02}", "safe to open"),
    "list": (pickled(b"]"), "no dictionary"),
    "empty dictionary": (pickled(b"}"), "no tensors"),
    "deep": (pickled(b"]" * 100000 + b"a" * 99999), "no dictionary"),
    "protocol 99": (b"\x80\x63}.", "safe to open"),
    "storage as text": (pickled(b"}U\x01aX\x01\0\0\0xQs"), "damaged"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_pickle_instructions(tmp_path, attack):
    program, word = ATTACKS[attack]
    torch_zip(tmp_path / "a.ckpt", program)
    tracemalloc.start()
    with pytest.raises(BadInput, match=word) as caught:
        open_checkpoint(tmp_path / "a.ckpt")
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()
    assert str(tmp_path / "a.ckpt") in str(caught.value)


def test_attack_does_not_last(tmp_path):
    """After every attack above an honest file still reads: nothing of ours was changed."""
    for program, _ in ATTACKS.values():
        torch_zip(tmp_path / "a.ckpt", program)
        with pytest.raises(BadInput):
            open_checkpoint(tmp_path / "a.ckpt")
    torch.save({"a": torch.arange(3.0)}, tmp_path / "b.ckpt")
    assert torch.equal(open_checkpoint(tmp_path / "b.ckpt")[0]["a"], torch.arange(3.0))


def test_a_frame_whose_length_is_cut_off(tmp_path):
    """Found by the test below."""
    torch_zip(tmp_path / "a.pt", b"\x80\x04\x95\x01\x02")
    with pytest.raises(BadInput, match="damaged"):
        open_checkpoint(tmp_path / "a.pt")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_changed_program_is_read_or_refused(tmp_path_factory, data):
    program = bytearray(tensor_program((2, 2), (2, 1)))
    for _ in range(data.draw(st.integers(1, 4))):
        program[data.draw(st.integers(0, len(program) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("fuzz") / "a.pt"
    torch_zip(path, bytes(program), {"0": b"\0" * 16})
    try:
        open_checkpoint(path)
    except BadInput as e:
        assert str(path) in str(e)


def test_compressed_bomb_is_refused_unread(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("archive/data.pkl", b"\0" * (20 << 20))
    tracemalloc.start()
    with pytest.raises(BadInput, match="compressed"):
        open_checkpoint(tmp_path / "a.pt")
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_many_tensors_over_one_storage(tmp_path):
    block = torch.zeros(10000)
    torch.save({str(i): block for i in range(50)}, tmp_path / "a.pt")
    with pytest.raises(BadInput, match="share storages"):
        open_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_honest_pickles_of_both_layouts(tmp_path, zipped, dtype):
    """What trainers really write: nested, with callbacks, numpy scalars, parameters, slices and transposes."""
    import collections

    import numpy as np

    big = torch.arange(24).to(dtype)
    content = {
        "epoch": 3,
        "callbacks": {"x": np.float64(2.5), "when": None},
        "state_dict": collections.OrderedDict(
            a=big,
            b=big[4:10].view(2, 3),
            c=big.view(4, 6).t(),
            d=torch.nn.Parameter(big.clone()) if dtype.is_floating_point else big.clone(),
            e=torch.zeros(0, 3, dtype=dtype),
            f=torch.tensor(5).to(dtype),
        ),
    }
    torch.save(content, tmp_path / "a.ckpt", _use_new_zipfile_serialization=zipped)
    tensors, metadata = open_checkpoint(tmp_path / "a.ckpt")
    assert metadata == {}
    assert tensors.keys() == content["state_dict"].keys()
    for name, tensor in content["state_dict"].items():
        assert tensors[name].dtype == dtype
        assert torch.equal(tensors[name], tensor.detach())
    assert not tensors["a"].requires_grad


def test_an_alpha_that_is_no_plain_number_is_not_missed(tmp_path):
    import argparse

    import numpy as np

    down, up = torch.ones(2, 8), torch.ones(8, 2)
    own = {f"{STEM}.lora_down.weight": down, f"{STEM}.lora_up.weight": up}
    aside = {"device": torch.device("cpu"), "args": argparse.Namespace(rank=2)}
    torch.save({**own, **aside, f"{STEM}.alpha": 1}, tmp_path / "a.pt")
    (adapter,) = read_network(tmp_path / "a.pt", NAMES).network.adapters.values()
    assert adapter.alpha == 1
    torch.save({**own, **aside, f"{STEM}.alpha": None}, tmp_path / "a.pt")
    (adapter,) = read_network(tmp_path / "a.pt", NAMES).network.adapters.values()
    assert adapter.alpha == 2
    for alpha in (np.float32(1), [1.0], "1", 10**400):
        torch.save({**own, **aside, f"{STEM}.alpha": alpha}, tmp_path / "a.pt")
        with pytest.raises(BadInput, match=rf"{STEM}\.alpha is no number that can be read"):
            read_network(tmp_path / "a.pt", NAMES)


def test_newest_zip_layout_with_extra_members(tmp_path):
    torch_zip(tmp_path / "a.pt", tensor_program((2, 2), (2, 1)), {"0": b"\0" * 16})
    with zipfile.ZipFile(tmp_path / "a.pt", "a") as z:
        z.writestr("archive/byteorder", "little")
        z.writestr("archive/.data/serialization_id", "1")
        z.writestr("archive/.format_version", "1")
    assert open_checkpoint(tmp_path / "a.pt")[0]["a"].shape == (2, 2)
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as z:
        z.writestr("archive/data.pkl", tensor_program((2, 2), (2, 1)))
        z.writestr("archive/byteorder", "big")
    with pytest.raises(BadInput, match="byte order"):
        open_checkpoint(tmp_path / "b.pt")
