"""W0 read again from the checkpoint file: only where it is proven, never after a doubt, with no copy too many."""

from __future__ import annotations

import os
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import LAYERS, TABLE, bits, network, weights

from lora_ext.errors import BadInput
from lora_ext.hosts.weight_file import weight_file
from lora_ext.layers import Layer, LayerName, LayerTable
from lora_ext.patching import Strengths, WeightPatcher, compose
from lora_ext.patching.originals import Copied
from lora_ext.patching.stored import Stored

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
NET, OTHER = network(0), network(1)


def written(path, tensors, age=60.0):
    save_file(tensors, path)
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def content(path):
    """Its tensors, no longer mapped: the file is about to be overwritten."""
    return {k: t.clone() for k, t in load_file(path).items()}


def made(path, dtype=torch.float32, stored=None):
    live = weights(dtype)
    written(path, {k: t.to(stored or dtype) for k, t in live.items()})
    return live, WeightPatcher(lambda: live, TABLE, lambda: weight_file(path))


def tiers(patcher):
    kept = patcher._originals
    return {type(kept[name]) for name in kept.names()}


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_is_copied_where_the_file_holds_the_same(tmp_path, dtype):
    live, patcher = made(tmp_path / "m.safetensors", dtype)
    before = bits(live)
    copied = weights(dtype)
    reference = WeightPatcher(lambda: copied, TABLE)
    for wanted in ({NET: Strengths(0.7, 0.3)}, {NET: Strengths(0.2, 1.0), OTHER: Strengths()}, {OTHER: Strengths()}):
        patcher.apply(wanted)
        reference.apply(wanted)
        assert bits(live) == bits(copied)
        assert tiers(patcher) == {Stored}
        assert patcher.originals_bytes == 0 < reference.originals_bytes
    patcher.clear()
    assert bits(live) == before
    assert patcher.spare_bytes == 0


@pytest.mark.parametrize(("stored", "dtype"), [(torch.float16, torch.float32), (torch.bfloat16, torch.float32)])
def test_a_file_in_half_precision_serves_a_model_in_float32(tmp_path, stored, dtype):
    live = {k: t.float() for k, t in weights(stored).items()}
    path = written(tmp_path / "m.safetensors", weights(stored))
    patcher = WeightPatcher(lambda: live, TABLE, lambda: weight_file(path))
    before = bits(live)
    patcher.apply({NET: Strengths()})
    patcher.apply({OTHER: Strengths()})
    assert tiers(patcher) == {Stored}
    patcher.clear()
    assert bits(live) == before


@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_a_file_in_float32_serves_a_model_that_was_rounded(tmp_path, dtype, monkeypatch):
    monkeypatch.setattr("lora_ext.patching.stored.AT_ONCE", 20)
    wide = weights(torch.float32)
    live = {k: t.to(dtype) for k, t in wide.items()}
    copied = {k: t.clone() for k, t in live.items()}
    path = written(tmp_path / "m.safetensors", wide)
    patcher = WeightPatcher(lambda: live, TABLE, lambda: weight_file(path))
    reference = WeightPatcher(lambda: copied, TABLE)
    before = bits(live)
    for strength in (0.5, 0.9):
        patcher.apply({NET: Strengths(strength)})
        reference.apply({NET: Strengths(strength)})
        assert bits(live) == bits(copied)
    assert tiers(patcher) == {Stored}
    patcher.clear()
    assert bits(live) == before


@pytest.mark.parametrize("row", [-1, 0, 3])
def test_one_differing_bit_means_a_copy_of_that_layer_alone(tmp_path, row, monkeypatch):
    monkeypatch.setattr("lora_ext.patching.stored.AT_ONCE", 40)
    path = tmp_path / "m.safetensors"
    live, patcher = made(path)
    live["b.conv.weight"].view(torch.int32)[row, -1, -1, -1] ^= 1
    before = bits(live)
    patcher.apply({NET: Strengths()})
    conv = next(layer for layer in LAYERS if layer.key == "b.conv.weight")
    assert isinstance(patcher._originals[conv.name], Copied)
    assert patcher.originals_bytes == live["b.conv.weight"].numel() * 4
    patcher.clear()
    assert bits(live) == before


@pytest.mark.parametrize(("zero", "tier"), [(0.0, Copied), (-0.0, Stored)])
def test_minus_zero_is_not_zero(tmp_path, zero, tier):
    path = tmp_path / "m.safetensors"
    live = weights(torch.float32)
    live["a.to_q.weight"][0, 0] = -0.0
    written(path, live)
    live["a.to_q.weight"][0, 0] = zero
    before = bits(live)
    patcher = WeightPatcher(lambda: live, TABLE, lambda: weight_file(path))
    patcher.apply({NET: Strengths()})
    assert isinstance(patcher._originals[LAYERS[0].name], tier)
    patcher.clear()
    assert bits(live) == before


def absent(path):
    path.unlink()


def pickled(path):
    torch.save(content(path), path)


def young(path):
    os.utime(path)


def of_the_future(path):
    os.utime(path, (time.time() + 3600, time.time() + 3600))


def other_keys(path):
    written(path, {f"x.{k}": t for k, t in content(path).items()})


def other_shapes(path):
    written(path, {k: t.flatten() for k, t in content(path).items()})


def other_numbers(path):
    written(path, {k: t.to(torch.int32) for k, t in content(path).items()})


def empty(path):
    path.write_bytes(b"")


def garbage(path):
    path.write_bytes(b"<html>")


@pytest.mark.parametrize(
    "spoil", [absent, pickled, young, of_the_future, other_keys, other_shapes, other_numbers, empty, garbage]
)
def test_any_doubt_means_copies(tmp_path, spoil):
    path = tmp_path / "m.safetensors"
    live, patcher = made(path)
    before = bits(live)
    spoil(path)
    patcher.apply({NET: Strengths()})
    assert tiers(patcher) == {Copied}
    patcher.clear()
    assert bits(live) == before


def test_a_file_changed_after_its_header_was_read_is_not_used(tmp_path):
    path = tmp_path / "m.safetensors"
    live, _ = made(path)
    known = weight_file(path)
    written(path, dict(reversed(content(path).items())), age=30)
    patcher = WeightPatcher(lambda: live, TABLE, lambda: known)
    patcher.apply({NET: Strengths()})
    assert tiers(patcher) == {Copied}


@pytest.mark.skipif(os.name == "nt", reason="Windows lets nobody remove or replace a file that is in use")
@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_removed_or_replaced_meanwhile_can_still_be_read(tmp_path, replaced):
    path = tmp_path / "m.safetensors"
    live, patcher = made(path)
    before = bits(live)
    patcher.apply({NET: Strengths()})
    if replaced:
        written(tmp_path / "new.safetensors", weights(torch.float32, seed=5)).replace(path)
    else:
        path.unlink()
    patcher.apply({NET: Strengths(0.5)})
    patcher.clear()
    assert bits(live) == before
    patcher.apply({NET: Strengths()})
    assert tiers(patcher) == {Copied}
    patcher.clear()
    assert bits(live) == before


def write_into(path):
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\1\2\3\4")


def cut_off(path):
    os.truncate(path, 100)


@pytest.mark.skipif(os.name == "nt", reason="Windows lets nobody cut off a file that is mapped")
@pytest.mark.parametrize("spoil", [write_into, cut_off])
def test_a_file_written_into_meanwhile_is_told_and_nothing_is_built_upon_it(tmp_path, spoil):
    path = tmp_path / "m.safetensors"
    live, patcher = made(path)
    patcher.apply({NET: Strengths()})
    now = bits(live)
    spoil(path)
    for wanted in ({OTHER: Strengths()}, {}, {NET: Strengths(0.5)}):
        with pytest.raises(BadInput, match=r"m\.safetensors.*Load the checkpoint again"):
            patcher.apply(wanted)
        assert bits(live) == now
        assert patcher.state == {NET: Strengths()}
    patcher.apply({NET: Strengths()})  # nothing to do needs no file
    patcher.forget()
    fresh = weights(torch.float32)
    for key, tensor in fresh.items():
        live[key].copy_(tensor)
    patcher.apply({NET: Strengths()})
    assert bits(live) == now
    assert tiers(patcher) == {Copied}


@pytest.mark.skipif(os.name == "nt", reason="Windows lets nobody cut off a file that is mapped")
def test_a_file_spoilt_in_the_middle_leaves_a_patcher_that_refuses(tmp_path):
    path = tmp_path / "m.safetensors"
    _live, patcher = made(path)
    patcher.apply({NET: Strengths()})

    class Spoiler(type(NET.adapters[LAYERS[0].name])):
        def factors(self):
            cut_off(path)
            return super().factors()

    net = network(3)
    first = min(net.adapters)
    a = net.adapters[first]
    net.adapters[first] = Spoiler(a.down.data, a.up.data, None, a.alpha)
    for wanted in ({net: Strengths()}, {}, {OTHER: Strengths()}):
        with pytest.raises(BadInput, match="Load the checkpoint again"):
            patcher.apply(wanted)
    assert not patcher.state
    patcher.forget()
    patcher.clear()


def test_a_name_that_is_no_path():
    assert weight_file("a\0b") is None


def test_a_tensor_that_does_not_lie_on_its_own_boundary_is_copied(tmp_path):
    path = tmp_path / "m.safetensors"
    live = weights(torch.float32)
    save_file(live, path)
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    path.write_bytes((length + 1).to_bytes(8, "little") + raw[8 : 8 + length] + b" " + raw[8 + length :])
    os.utime(path, (0, 0))
    patcher = WeightPatcher(lambda: live, TABLE, lambda: weight_file(path))
    before = bits(live)
    patcher.apply({NET: Strengths()})
    assert tiers(patcher) == {Copied}
    patcher.clear()
    assert bits(live) == before


def test_the_file_is_asked_for_once_and_let_go_of(tmp_path):
    path = tmp_path / "m.safetensors"
    live, _ = made(path)
    asked = []

    def find():
        asked.append(1)
        return weight_file(path)

    patcher = WeightPatcher(lambda: live, TABLE, find)
    patcher.apply({NET: Strengths()})
    patcher.apply({OTHER: Strengths()})
    assert len(asked) == 1
    opened = patcher._originals._open
    patcher.clear()
    assert opened._file.closed
    patcher.apply({NET: Strengths()})
    assert len(asked) == 2


def test_empty_and_one_dimensional_weights(tmp_path):
    layer = Layer(LayerName("unet", "n"), "n.weight", None, (6,), "norm", "n")
    live = {"n.weight": torch.ones(6)}
    path = written(tmp_path / "m.safetensors", live)
    patcher = WeightPatcher(lambda: live, LayerTable("sd1", {layer.name: layer}), lambda: weight_file(path))
    assert isinstance(patcher._originals.keep(layer, live["n.weight"]), Stored)


@pytest.fixture
def looked_at(monkeypatch):
    """The layers whose numbers were asked for their range, in order."""
    seen, real = [], compose._Written
    monkeypatch.setattr(compose, "_Written", lambda layer, *rest: seen.append(layer.name) or real(layer, *rest))
    return seen


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_range_of_what_the_file_holds_is_looked_at_once_for_all(tmp_path, dtype, looked_at):
    path = tmp_path / "m.safetensors"
    live, patcher = made(path, dtype)
    patcher.apply({NET: Strengths()})
    assert len(looked_at) == len(LAYERS)
    patcher.clear()
    looked_at.clear()
    patcher.apply({NET: Strengths(0.9)})
    assert not looked_at
    patcher.clear()
    live["a.to_q.weight"].fill_(torch.finfo(dtype).max)  # no longer what the file holds
    patcher.apply({NET: Strengths()})
    assert looked_at == [LAYERS[0].name]


@pytest.mark.parametrize("change", ["forget", "file", "dtype"])
def test_another_model_s_range_is_looked_at_anew(tmp_path, change, looked_at):
    path = tmp_path / "m.safetensors"
    live, patcher = made(path)
    patcher.apply({NET: Strengths()})
    patcher.clear()
    if change == "forget":
        patcher.forget()
    elif change == "file":
        written(path, live, age=30)
    else:
        live.update({key: tensor.half() for key, tensor in live.items()})
    looked_at.clear()
    patcher.apply({NET: Strengths()})
    assert tiers(patcher) == {Stored}
    assert len(looked_at) == len(LAYERS)
