"""Whole files of every kind that are wrong somewhere: the message names file and tensor, others still apply exactly."""

from __future__ import annotations

import json
import math
import os
import struct
import tracemalloc

import pytest
import safetensors.torch
import tiny_table
import torch

from lora_ext.adapters import Network
from lora_ext.errors import BadInput
from lora_ext.formats import read_info, read_network
from lora_ext.layers import LayerTable
from lora_ext.patching import Strengths, WeightPatcher

TABLE, NAMES = tiny_table.table(), tiny_table.names()
MODULE = "down_blocks_0_attentions_0_transformer_blocks_0"
Q, K = f"lora_unet_{MODULE}_attn1_to_q", f"lora_unet_{MODULE}_attn2_to_k"  # [8, 8], [8, 12]
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"  # [8, 4, 3, 3]
PEFT = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def rand(*shape, seed=3):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def lora(stem=Q, out=8, width=8, rank=2, **more):
    own = {"lora_down.weight": rand(rank, width), "lora_up.weight": rand(out, rank), "alpha": torch.tensor(1.0)}
    own |= {name.replace("__", "."): tensor for name, tensor in more.items()}
    return {f"{stem}.{name}": tensor for name, tensor in own.items() if tensor is not None}


def of(stem, **own):
    return {f"{stem}.{name.replace('__', '.')}": tensor for name, tensor in own.items()}


def loha(**more):
    own = {"hada_w1_a": rand(8, 2), "hada_w1_b": rand(2, 8), "hada_w2_a": rand(8, 2), "hada_w2_b": rand(2, 8)}
    return {f"{Q}.{name}": tensor for name, tensor in (own | more).items() if tensor is not None}


def tucker(**more):
    own = {
        "lora_down.weight": rand(2, 4, 1, 1),
        "lora_up.weight": rand(8, 2, 1, 1),
        "lora_mid.weight": rand(2, 2, 3, 3),
    }
    own |= {name.replace("__", "."): tensor for name, tensor in more.items()}
    return {f"{CONV}.{name}": tensor for name, tensor in own.items()}


NAN, INF, HUGE = torch.tensor(math.nan), torch.tensor(math.inf), torch.tensor(3e38)

BAD = {
    # title -> (tensors, what the message has to name)
    "alpha NaN": (lora(alpha=NAN), f"{Q}.alpha"),
    "alpha inf": (lora(alpha=INF), f"{Q}.alpha"),
    "alpha 0": (lora(alpha=torch.tensor(0.0)), f"{Q}.alpha"),
    "alpha beyond all sense": (lora(alpha=HUGE), f"{Q}.alpha"),
    "alpha of five numbers": (lora(alpha=torch.ones(5)), f"{Q}.alpha"),
    "alpha of no number": (lora(alpha=torch.ones(0)), f"{Q}.alpha"),
    "alpha alone": (of(Q, alpha=torch.tensor(1.0)), f"{Q}.lora_"),
    "scalar NaN": (loha(scalar=NAN), f"{Q}.scalar"),
    "five axes": (lora(lora_up__weight=torch.ones(8, 2, 1, 1, 1)), f"{Q}.lora_up.weight"),
    "no axes": (lora(lora_up__weight=torch.tensor(1.0)), f"{Q}.lora_up.weight"),
    "one axis": (lora(lora_down__weight=torch.ones(16)), f"{Q}.lora_down.weight"),
    "no rows": (lora(lora_down__weight=torch.ones(0, 8)), f"{Q}.lora_down.weight"),
    "rank 0": (lora(rank=0), f"{Q}.lora_down.weight"),
    "integers": (lora(lora_up__weight=torch.ones(8, 2).int()), f"{Q}.lora_up.weight"),
    "booleans": (lora(lora_up__weight=torch.ones(8, 2).bool()), f"{Q}.lora_up.weight"),
    "up and down swapped": (lora(lora_up__weight=rand(2, 8), lora_down__weight=rand(8, 2)), f"{Q}.lora_down.weight"),
    "another width": (lora(K, width=9), f"{K}.lora_down.weight"),
    "another height": (lora(out=9), f"{Q}.lora_up.weight"),
    "kernel on a linear layer": (lora(lora_down__weight=rand(2, 8, 3, 3)), f"{Q}.lora_down.weight"),
    "kernel of another size": (tucker(lora_mid__weight=rand(2, 2, 5, 5)), f"{CONV}.lora_mid.weight"),
    "core of another rank": (tucker(lora_mid__weight=rand(3, 3, 3, 3)), f"{CONV}.lora_mid.weight"),
    "core NaN": (tucker(lora_mid__weight=torch.full((2, 2, 3, 3), math.nan)), f"{CONV}.lora_mid.weight"),
    "LoHa without a partner": (loha(hada_w2_b=None), f"{Q}.hada_w2_b"),
    "LoHa of two ranks": (loha(hada_w2_a=rand(8, 3)), f"{Q}.hada_w2_a"),
    "LoHa NaN": (loha(hada_w1_a=torch.full((8, 2), math.nan)), f"{Q}.hada_w1_a"),
    "LoHa with half a core": (loha(hada_t1=rand(2, 2, 3, 3)), f"{Q}.hada_t2"),
    "LoKr whose factors do not multiply to the layer": (of(Q, lokr_w1=rand(3, 3), lokr_w2=rand(4, 4)), Q),
    "LoKr without a half": (of(Q, lokr_w1_a=rand(2, 2), lokr_w2=rand(4, 4)), f"{Q}.lokr_w1"),
    "LoKr of two ranks": (of(Q, lokr_w1=rand(2, 2), lokr_w2_a=rand(4, 2), lokr_w2_b=rand(3, 4)), Q),
    "GLoRA without a partner": (of(Q, a1__weight=rand(2, 8), a2__weight=rand(8, 2), b1__weight=rand(2, 8)), f"{Q}.b2"),
    "OFT blocks that do not fill": (of(Q, oft_blocks=rand(3, 3, 3)), f"{Q}.oft_blocks"),
    "OFT blocks that are not square": (of(Q, oft_blocks=rand(2, 4, 3)), f"{Q}.oft_blocks"),
    "OFT inf": (of(Q, oft_blocks=torch.full((2, 4, 4), math.inf)), f"{Q}.oft_blocks"),
    "OFT with a negative constraint": (of(Q, oft_blocks=rand(2, 4, 4), alpha=torch.tensor(-1.0)), f"{Q}.alpha"),
    "BOFT of another size": (of(Q, oft_blocks=rand(2, 3, 3, 3)), f"{Q}.oft_blocks"),
    "IA3 of another size": (of(Q, weight=rand(5), on_input=torch.tensor(0)), f"{Q}.weight"),
    "IA3 on something": (of(Q, weight=rand(8), on_input=torch.tensor(7)), f"{Q}.on_input"),
    "full difference of another size": (of(Q, diff=rand(8, 9)), f"{Q}.diff"),
    "full difference NaN": (of(Q, diff=torch.full((8, 8), math.nan)), f"{Q}.diff"),
    "DoRA scale on no axis": (lora(K, width=12, dora_scale=torch.ones(5, 1)), f"{K}.dora_scale"),
    "DoRA scale of both axes": (lora(K, width=12, dora_scale=torch.ones(8, 12)), f"{K}.dora_scale"),
    "DoRA scale NaN": (lora(dora_scale=torch.full((8, 1), math.nan)), f"{Q}.dora_scale"),
    "DoRA scale without factors": (of(Q, dora_scale=torch.ones(8, 1)), f"{Q}"),
    "two DoRA scales": (lora(dora_scale=torch.ones(8, 1), lora_magnitude_vector=torch.ones(8)), f"{Q}"),
    "PEFT's OFT of another size": (of(PEFT, oft_r=rand(3, 3, 3)), f"{PEFT}.oft_r"),
    "PEFT's newer OFT of another size": (of(PEFT, oft_R__weight=rand(3, 4)), f"{PEFT}.oft_R"),
    "PEFT's IA3 of another size": (of(PEFT, ia3_l=torch.ones(7, 1)), f"{PEFT}"),
    "two spellings of one layer": (lora() | lora("unet." + MODULE + "_attn1_to_q"), "name the same tensor"),
    "another family's names": (lora(Q.replace("blocks_0_attn1", "blocks_3_attn1")), "for SDXL"),
    "no layer of this model": (lora("lora_unet_nowhere"), "lora_unet_nowhere"),
    "an embedding with NaN": (lora() | {"bundle_emb.cat.clip_l": NAN.reshape(1, 1)}, "bundle_emb.cat.clip_l"),
    "a whole checkpoint": ({"model.diffusion_model.input_blocks.1.1.proj_in.weight": rand(8, 8)}, "whole checkpoint"),
    "a VAE": ({"first_stage_model.decoder.conv_in.weight": rand(4, 4)}, "no tensor fits"),
    "tensors of no number": ({f"{Q}.lora_up.weight": torch.ones(0, 0), f"{Q}.lora_down.weight": torch.ones(0, 0)}, Q),
}  # fmt: skip


def weights(dtype=torch.float32):
    g = torch.Generator().manual_seed(1)
    return {layer.key: torch.randn(layer.shape, generator=g).to(dtype) for layer in TABLE.layers.values()}


def applied(tensors, network):
    patcher = WeightPatcher(lambda: tensors, TABLE)
    patcher.apply({network: Strengths(0.7, 0.3)})
    return patcher


@pytest.mark.parametrize("title", BAD)
def test_bad_file_is_named_and_others_apply_exactly(tmp_path, title):
    bad, word = BAD[title]
    path = tmp_path / "näme with spaces.safetensors"
    safetensors.torch.save_file({key: tensor.contiguous() for key, tensor in bad.items()}, path)
    tensors = weights()
    patcher = applied(tensors, tiny_table.network(TABLE))
    alone = {key: tensor.clone() for key, tensor in tensors.items()}
    with pytest.raises(BadInput) as caught:
        read_network(path, NAMES)
    message = str(caught.value)
    assert str(path) in message and word in message
    assert len(message.splitlines()) <= 9
    for problem in caught.value.problems:
        assert problem.what and (problem.expected or problem.got), "what is wrong is not told"
        assert problem.fix.endswith("."), "what to do is not told"
    assert all(torch.equal(tensor, alone[key]) and tensor.isfinite().all() for key, tensor in tensors.items())
    patcher.clear()
    assert all(torch.equal(tensor, before) for tensor, before in zip(tensors.values(), weights().values(), strict=True))
    read_info(path)  # tells what it can


FINE = {
    "no alpha": lora(alpha=None),
    "alpha of shape [1]": lora(alpha=torch.ones(1)),
    "negative alpha": lora(alpha=torch.tensor(-2.0)),
    "alpha as a whole number": lora(alpha=torch.tensor(2)),
    "alpha in half precision": lora(alpha=torch.tensor(2.0).half()),
    "double precision": {key: tensor.double() for key, tensor in lora().items()},
    "eight bits": {key: tensor.to(torch.float8_e4m3fn) if tensor.dim() else tensor for key, tensor in lora().items()},
    "OFT without a bound": of(Q, oft_blocks=rand(2, 4, 4), alpha=torch.tensor(0.0)),
    "a strange key beside": lora() | {"ключ\u0000.что": rand(2)},
    "a key of 100 kB with dots": lora() | {"a." * 50000: rand(2)},
    "the model's own bias beside": lora() | {f"{Q}.bias": rand(8)},
}


@pytest.mark.parametrize("title", FINE)
def test_odd_files_that_mean_something(tmp_path, title):
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(FINE[title], path)
    result = read_network(path, NAMES)
    assert len(result.network.adapters) == 1
    assert len(result.unmatched) == ("beside" in title or "100 kB" in title)
    tensors = weights()
    applied(tensors, result.network)
    assert all(tensor.isfinite().all() for tensor in tensors.values())


@pytest.mark.parametrize("dtype", ["C64", "C128", "U16", "U64", "F4", "F8_E8M0", "F16 ", "f32", "", None, {}])
def test_number_types_that_no_network_has(tmp_path, dtype):
    header = json.dumps({f"{Q}.lora_up.weight": {"dtype": dtype, "shape": [2, 2], "data_offsets": [0, 32]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 32)
    with pytest.raises(BadInput, match=rf"{Q}\.lora_up\.weight: unknown number type"):
        read_network(tmp_path / "a.safetensors", NAMES)


def test_numbers_too_large_for_the_model_are_refused_when_applied(tmp_path):
    path = tmp_path / "loud.safetensors"
    safetensors.torch.save_file(lora(lora_up__weight=rand(8, 2) * 1e5), path)
    tensors, loud = weights(torch.float16), read_network(path, NAMES).network
    patcher = applied(tensors, quiet := tiny_table.network(TABLE))
    alone = {key: tensor.clone() for key, tensor in tensors.items()}
    with pytest.raises(BadInput, match=r"loud.*float16"):
        patcher.apply({loud: Strengths(), quiet: Strengths(0.7, 0.3)})
    assert all(torch.equal(tensor, alone[key]) for key, tensor in tensors.items())


PATHS = {
    "missing": (lambda p: p / "none.safetensors", "no such file"),
    "folder": (lambda p: p, "no such file"),
    "folder of that name": (lambda p: (p / "a.safetensors").mkdir() or p / "a.safetensors", "no such file"),
    "link to itself": (lambda p: (p / "l.safetensors").symlink_to(p / "l.safetensors") or p / "l.safetensors", ""),
    "link to nothing": (lambda p: (p / "l.safetensors").symlink_to(p / "gone") or p / "l.safetensors", "no such file"),
    "below a file": (lambda p: (p / "f").write_text("x") and p / "f" / "a.safetensors", ""),
    "zero byte in its name": (lambda p: p / "a\0.safetensors", ""),
    "too long a name": (lambda p: p / ("x" * 5000), ""),
}


@pytest.mark.skipif(os.name != "posix", reason="symbolic links need rights on other systems")
@pytest.mark.parametrize("title", PATHS)
def test_paths_that_are_no_file(tmp_path, title):
    make, word = PATHS[title]
    path = make(tmp_path)
    for read in (lambda: read_network(path, NAMES), lambda: read_info(path)):
        with pytest.raises(BadInput, match=word):
            read()


@pytest.mark.skipif(os.name != "posix", reason="named pipes are a POSIX thing")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.safetensors")
    with pytest.raises(BadInput):
        read_network(tmp_path / "a.safetensors", NAMES)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything: not tested as root")
def test_a_file_without_the_right_to_read(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(safetensors.torch.save(lora()))
    (tmp_path / "a.safetensors").chmod(0)
    with pytest.raises(BadInput, match="cannot be read"):
        read_network(tmp_path / "a.safetensors", NAMES)


def sparse(path, tensors):
    """A file whose tensors (key -> bytes) take no place on the disk."""
    header, at = {}, 0
    for key, size in tensors.items():
        header[key] = {"dtype": "F16", "shape": [size // 2], "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + at)


@pytest.mark.parametrize("key", ["model.diffusion_model.input_blocks.1.1.proj_in.weight", f"{Q}.lora_up.weight"])
def test_a_huge_file_is_refused_unread(tmp_path, key):
    sparse(tmp_path / "a.safetensors", {key: 20 << 30})
    tracemalloc.start()
    with pytest.raises(BadInput, match=r"whole checkpoint|too large"):
        read_network(tmp_path / "a.safetensors", NAMES)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert read_info(tmp_path / "a.safetensors").tensors == 1


def test_info_reads_no_tensor(tmp_path, monkeypatch):
    """The header and not a byte more."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors.torch.save(lora()))
    length = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    os.truncate(path, length)
    with pytest.raises(BadInput, match="cut off"):
        read_info(path)
    os.truncate(path, length + sum(t.numel() * t.element_size() for t in lora().values()))
    monkeypatch.setattr("lora_ext.formats.checkpoint.whole_file", None)
    assert read_info(path).layers == 1


def test_info_of_an_old_pickle_reads_its_start_only(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    torch.save(lora() | {"large": torch.zeros(1 << 20)}, path, _use_new_zipfile_serialization=False)
    monkeypatch.setattr("pathlib.Path.read_bytes", None)
    tracemalloc.start()
    assert read_info(path).tensors == 4
    assert tracemalloc.get_traced_memory()[1] < 3 << 20  # of 4 MiB of numbers, the first one twice
    tracemalloc.stop()
    assert len(read_network(path, NAMES).network.adapters) == 1


def test_an_old_pickle_with_a_long_table(tmp_path):
    tensors = lora() | {"x" * 390 + str(i): torch.zeros(1) for i in range(3000)}
    torch.save(tensors, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert len(read_network(tmp_path / "a.pt", NAMES).unmatched) == 3000


PATTERNS = ["(a+)+$", "(.*.*.*)*x", "x{1,9999}{1,9999}", "(", "[", "a" * 10000 + "*", r"(?P<a>.)\1+", "(?<=a)*"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_expressions_that_could_take_for_ever(tmp_path, pattern):
    tensors = of(PEFT, lora_A__weight=rand(2, 8), lora_B__weight=rand(8, 2))
    safetensors.torch.save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 2, "alpha_pattern": {pattern: 3}}))
    with pytest.raises(BadInput, match=r"adapter_config\.json: the pattern"):
        read_network(tmp_path / "adapter_model.safetensors", NAMES)


@pytest.mark.parametrize(
    "config", ["[]", "{", '{"lora_alpha": NaN}', '{"lora_alpha": "x"}', "[" * 100000, '{"lora_alpha": []}']
)
def test_settings_that_are_none(tmp_path, config):
    tensors = of(PEFT, lora_A__weight=rand(2, 8), lora_B__weight=rand(8, 2))
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": config})
    with pytest.raises(BadInput, match=r"a\.safetensors: .*alpha"):
        read_network(tmp_path / "a.safetensors", NAMES)


@pytest.mark.parametrize(
    "keys", [("1",), ("0", "2"), ("0",), ("0", "unet:0:up"), ("unet:3:up", "unet:3:down"), ("٣", "٤")]
)
def test_numbered_tensors_that_are_no_list(tmp_path, keys):
    """The first was found by the test of nonsense."""
    safetensors.torch.save_file({key: rand(2, 2) for key in keys}, tmp_path / "a.safetensors")
    with pytest.raises(BadInput, match=r"a\.safetensors"):
        read_network(tmp_path / "a.safetensors", NAMES)


def test_a_network_read_twice_or_in_any_order_gives_the_same_bits(tmp_path):
    kinds = [loha(), lora(), of(Q, oft_blocks=rand(2, 4, 4)), lora(dora_scale=rand(8, 1).abs()), lora(K, width=12)]
    read: list[Network] = []
    for i, tensors in enumerate(kinds):
        safetensors.torch.save_file(tensors, tmp_path / f"{i}.safetensors")
        read.append(read_network(tmp_path / f"{i}.safetensors", NAMES).network)
    assert len({network.identity for network in read}) == len(read)
    results = []
    for order in (read, read[::-1], read[2:] + read[:2]):
        tensors = weights(torch.float16)
        patcher = WeightPatcher(lambda tensors=tensors: tensors, TABLE)
        patcher.apply({network: Strengths(0.4, 0.4) for network in order})
        results.append({key: tensor.clone() for key, tensor in tensors.items()})
    assert all(torch.equal(one[key], tensor) for one in results[1:] for key, tensor in results[0].items())


def test_table_without_biases(tmp_path):
    """A change of a bias that the model has not is told, not an error."""
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(of(Q, diff=rand(8, 8), diff_b=rand(8)), path)
    result = read_network(path, tiny_table.NameTable(LayerTable("sd1", TABLE.layers)))
    assert result.unmatched == (f"{Q}.diff_b",)
    assert len(result.network.adapters) == 1
