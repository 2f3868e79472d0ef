"""Files read for use: several at once, and kept in their own precision. The same networks, the same refusals."""

from __future__ import annotations

import threading

import pytest
import safetensors.torch
import tiny_table
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lora_ext.errors import BadInput
from lora_ext.formats import read as reading
from lora_ext.formats import read_network, read_networks, write_network
from lora_ext.formats.finite import all_finite
from lora_ext.formats.safetensors_file import Header, Slot

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
NAMES = tiny_table.names()


def files(folder, count=3, dtype=torch.float16, tucker=False):
    out = []
    for seed in range(count):
        out.append(folder / f"n{seed}.safetensors")
        net = tiny_table.network(tiny_table.table(), seed, 2, tucker)
        write_network(out[-1], net, NAMES, {}, dtype)
    return out


@pytest.fixture(autouse=True, params=[1, 2])
def threads(request, monkeypatch):
    """What torch was told to use, which decides whether a second thread reads."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)
    return request.param


def bits(network):
    return {
        (str(layer), own): (tensor.dtype, tensor.contiguous().numpy().tobytes())
        for layer, adapter in network.adapters.items()
        for own, tensor in adapter.to_tensors().items()
    }


def deltas(network):
    shapes = tiny_table.table().layers
    return {name: a.delta(torch.zeros(shapes[name].shape)) for name, a in network.adapters.items()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tucker", [False, True])
def test_as_stored_is_the_same_network_bit_for_bit(tmp_path, dtype, tucker):
    [path] = files(tmp_path, 1, dtype, tucker)
    plain, kept = read_network(path, NAMES), read_network(path, NAMES, as_stored=True)
    assert {p.dtype for p in kept.network.parameters()} == {dtype}
    assert {p.dtype for p in plain.network.parameters()} == {torch.float32}
    assert bits(kept.network) == bits(plain.network)
    assert (kept.network.identity, kept.unmatched) == (plain.network.identity, plain.unmatched)
    want, got = deltas(plain.network), deltas(kept.network)
    assert all(torch.equal(want[name], got[name]) for name in want)


@pytest.mark.parametrize("as_stored", [False, True])
def test_several_files_are_what_they_are_one_by_one(tmp_path, as_stored):
    paths = files(tmp_path)
    together = read_networks(paths, NAMES, as_stored=as_stored)
    for path, got in zip(paths, together, strict=True):
        alone = read_network(path, NAMES)
        assert got.network.name == path.stem
        assert bits(got.network) == bits(alone.network)
        assert got.network.identity == alone.network.identity
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lora-ext read")]


def test_bad_ones_among_good_ones_are_refused_in_the_same_words(tmp_path):
    good, nan, cut = files(tmp_path)
    spoil(nan, torch.nan)
    cut.write_bytes(cut.read_bytes()[:-8])
    paths = [tmp_path / "none.safetensors", nan, good, cut]
    got = read_networks(paths, NAMES, as_stored=True)
    assert got[2].network.adapters
    for path, one in zip(paths, got, strict=True):
        if path != good:
            with pytest.raises(BadInput) as caught:
                read_network(path, NAMES)
            assert isinstance(one, BadInput)
            assert str(one) == str(caught.value)


def spoil(path, value):
    tensors = safetensors.torch.load_file(path)
    key = next(key for key in tensors if "fc1.lora_up" in key)
    tensors[key] = tensors[key].clone()
    tensors[key][-1, -1] = value
    safetensors.torch.save_file(tensors, path)
    return key


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf, -torch.inf])
def test_numbers_that_are_none_are_refused_and_named(tmp_path, dtype, value):
    [path] = files(tmp_path, 1, dtype)
    key = spoil(path, value)
    with pytest.raises(BadInput, match="NaN or infinity") as caught:
        read_network(path, NAMES, as_stored=True)
    assert key in str(caught.value)


def test_a_file_written_to_while_it_is_read_is_told(tmp_path, monkeypatch):
    """The bytes are read in a thread; what it raises comes out here."""
    paths = files(tmp_path, 2)
    real = reading.whole_file

    def meanwhile(path, mapped):
        content = real(path, mapped)
        return content[:-2] if path == paths[1] else content

    monkeypatch.setattr(reading, "whole_file", meanwhile)
    first, second = read_networks(paths, NAMES)
    assert first.network.adapters
    assert isinstance(second, BadInput)
    assert "changed while it was read" in str(second)


def test_an_error_that_is_nobodys_fault_comes_out_and_leaves_no_thread(tmp_path, monkeypatch):
    def broken(path, mapped):
        raise MemoryError

    monkeypatch.setattr(reading, "whole_file", broken)
    with pytest.raises(MemoryError):
        read_networks(files(tmp_path, 2), NAMES)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lora-ext read")]


def test_no_file_of_another_kind_is_read_whole(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4, 4, 3, 3)}, path)
    monkeypatch.setattr(reading, "whole_file", lambda *_: pytest.fail("the numbers were read"))
    [told] = read_networks([path], NAMES, as_stored=True)
    assert isinstance(told, BadInput)


@pytest.mark.parametrize("as_stored", [False, True])
def test_a_file_can_be_overwritten_afterwards(tmp_path, as_stored):
    [path] = files(tmp_path, 1)
    [result] = read_networks([path], NAMES, as_stored=as_stored)
    before = bits(result.network)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert bits(result.network) == before


def test_a_file_that_is_not_all_plain_lora_gives_no_memory_to_keep(tmp_path):
    [path] = files(tmp_path, 1, torch.float16)
    tensors = safetensors.torch.load_file(path) | {"of.no.layer": torch.zeros(1 << 21, dtype=torch.float16)}
    safetensors.torch.save_file(tensors, path)
    network = read_network(path, NAMES, as_stored=True).network
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_further_threads_only_where_torch_may_have_them(tmp_path, threads, monkeypatch):
    seen, real = set(), reading.whole_file

    def noted(path, mapped):
        seen.add(threading.current_thread().name.rstrip("_01"))
        return real(path, mapped)

    monkeypatch.setattr(reading, "whole_file", noted)
    read_networks(files(tmp_path), NAMES)
    read_networks(files(tmp_path, 1), NAMES)
    assert seen == {"MainThread"} | ({"lora-ext read"} if threads > 1 else set())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(DTYPES), st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=9), st.integers(0, 8))
def test_bits_tell_what_torch_tells(dtype, numbers, zeros):
    raw = torch.tensor([0] * zeros + numbers).to(torch.int32).view(torch.uint8).clone()
    values = raw.view(dtype)
    slot = Slot(dtype, tuple(values.shape), 0, raw.numel())
    assert all_finite(Header({"x": slot}, {}, 0, raw.numel()), raw) == bool(torch.isfinite(values).all())


def test_what_is_no_such_number_is_in_doubt():
    raw = torch.zeros(16, dtype=torch.uint8)
    for dtype in (torch.float64, torch.int32, torch.uint8):
        slot = Slot(dtype, (16 // dtype.itemsize,), 0, 16)
        assert not all_finite(Header({"x": slot}, {}, 0, 16), raw)
    aside = Header({"x": Slot(torch.float16, (7,), 0, 14)}, {}, 1, 14)
    assert not all_finite(aside, raw[:15])
