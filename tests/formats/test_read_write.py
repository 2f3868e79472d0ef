"""Save then load is the identity; peers read our files; every spelling of a file gives the same network."""

from __future__ import annotations

import json

import pytest
import safetensors
import safetensors.torch
import tiny_table
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_ext.errors import BadInput
from lora_ext.formats import read_network, write_network

META = {"ss_output_name": "net", "modelspec.title": 'née "net" <b>', "ss_v2": "False"}


def same(a, b):
    assert set(a.adapters) == set(b.adapters)
    for name, adapter in a.adapters.items():
        want, got = adapter.to_tensors(), b.adapters[name].to_tensors()
        assert want.keys() == got.keys()
        for key, tensor in want.items():
            assert torch.equal(tensor, got[key]), (name, key)
            assert got[key].dtype == torch.float32


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.integers(1, 5), st.booleans(), st.sampled_from(["sd1", "sd2", "sdxl"]))
def test_save_then_load_is_the_identity(tmp_path_factory, seed, rank, tucker, family):
    table, names = tiny_table.table(family), tiny_table.names(family)
    net = tiny_table.network(table, seed, rank, tucker)
    path = tmp_path_factory.mktemp("n") / "net.safetensors"
    write_network(path, net, names, META, torch.float32)
    result = read_network(path, names)
    same(net, result.network)
    assert result.unmatched == ()
    assert result.network.name == "net"
    assert META.items() <= result.network.metadata.items()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_round_once_and_keep_alpha(tmp_path, dtype):
    net = tiny_table.network(tiny_table.table())
    for adapter in net.adapters.values():
        adapter.alpha = 0.1
    write_network(tmp_path / "a.safetensors", net, tiny_table.names(), {}, dtype)
    read = read_network(tmp_path / "a.safetensors", tiny_table.names()).network
    for name, adapter in net.adapters.items():
        assert torch.equal(read.adapters[name].down, adapter.down.to(dtype).float())
        assert read.adapters[name].alpha == pytest.approx(0.1, abs=1e-8)
    write_network(tmp_path / "b.safetensors", read, tiny_table.names(), {}, dtype)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_safetensors_itself_reads_our_files(tmp_path):
    net = tiny_table.network(tiny_table.table("sdxl"))
    write_network(tmp_path / "a.safetensors", net, tiny_table.names("sdxl"), META, torch.float16)
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert META.items() <= file.metadata().items()
        keys = set(file.keys())
        for name, adapter in net.adapters.items():
            key = tiny_table.names("sdxl").kohya(name) + ".lora_up.weight"
            assert torch.equal(file.get_tensor(key), adapter.up.half())
            keys.remove(key)
    assert "lora_unet_input_blocks_1_1_proj_in.lora_down.weight" in keys
    assert "lora_te2_text_model_encoder_layers_0_self_attn_q_proj.alpha" in keys


def test_sd1_files_have_diffusers_names_and_pointwise_shapes(tmp_path):
    write_network(
        tmp_path / "a.safetensors", tiny_table.network(tiny_table.table()), tiny_table.names(), {}, torch.float16
    )
    tensors = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert tensors["lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"].shape == (2, 8, 1, 1)
    assert tensors["lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight"].shape == (8, 2, 1, 1)
    assert tensors["lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight"].shape == (24, 2)
    assert tensors["lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight"].shape == (2, 4, 3, 3)


def test_the_same_network_gives_the_same_bytes(tmp_path):
    for i in range(2):
        net = tiny_table.network(tiny_table.table())
        meta = dict(reversed(META.items())) if i else META
        write_network(tmp_path / f"{i}.safetensors", net, tiny_table.names(), meta, torch.float16)
    assert (tmp_path / "0.safetensors").read_bytes() == (tmp_path / "1.safetensors").read_bytes()


SPELLINGS = {
    "PEFT": (
        lambda n, m: ("unet." if n.component == "unet" else "text_encoder.") + m,
        "lora_A.weight",
        "lora_B.weight",
    ),
    "PEFT with adapter name": (
        lambda n, m: ("unet." if n.component == "unet" else "text_encoder.") + m,
        "lora_A.default_0.weight",
        "lora_B.default_0.weight",
    ),
    "PEFT raw": (lambda n, m: "base_model.model." + m, "lora_A.weight", "lora_B.weight"),
    "diffusers lora.down": (
        lambda n, m: ("unet." if n.component == "unet" else "text_encoder.") + m,
        "lora.down.weight",
        "lora.up.weight",
    ),
    "diffusers lora_linear_layer": (
        lambda n, m: ("unet." if n.component == "unet" else "text_encoder.") + m,
        "lora_linear_layer.down.weight",
        "lora_linear_layer.up.weight",
    ),
    "LyCORIS": (lambda n, m: "lycoris_" + m.replace(".", "_"), "lora_down.weight", "lora_up.weight"),
    "kohya": (
        lambda n, m: ("lora_unet_" if n.component == "unet" else "lora_te_") + m.replace(".", "_"),
        "lora_down.weight",
        "lora_up.weight",
    ),
    "kohya, ldm names": (
        lambda n, m: ("lora_unet_" if n.component == "unet" else "lora_te_") + n.path.replace(".", "_"),
        "lora_down.weight",
        "lora_up.weight",
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("container", ["safetensors", "pt"])
def test_every_spelling_gives_the_same_network(tmp_path, spelling, container):
    prefix, down, up = SPELLINGS[spelling]
    table = tiny_table.table()
    net = tiny_table.network(table)
    tensors = tiny_table.tensors_of(net, lambda n: prefix(n, table.layers[n].module), down, up)
    path = tmp_path / f"a.{container}"
    if container == "pt":
        torch.save(tensors, path)
    else:
        safetensors.torch.save_file(tensors, path)
    result = read_network(path, tiny_table.names())
    same(net, result.network)
    assert result.unmatched == ()


def test_old_attention_processor_files(tmp_path):
    table = tiny_table.table()
    net = tiny_table.network(table)
    tensors = {}
    ends = {"to_q": "to_q_lora", "to_k": "to_k_lora", "to_out.0": "to_out_lora"}
    kept = {}
    for name, adapter in net.adapters.items():
        for end, factors in ends.items():
            module = table.layers[name].module
            if module.endswith("." + end):
                stem = module.removesuffix(end) + f"processor.{factors}"
                tensors[f"{stem}.down.weight"], tensors[f"{stem}.up.weight"] = adapter.down.data, adapter.up.data
                adapter.alpha = float(adapter.rank)
                kept[name] = adapter
    torch.save(tensors, tmp_path / "a.bin")
    net.adapters = kept
    assert len(kept) == 3
    same(net, read_network(tmp_path / "a.bin", tiny_table.names()).network)


@pytest.mark.parametrize("factors", [("lora_down.weight", "lora_up.weight"), ("W_down", "W_up")])
@pytest.mark.parametrize("container", ["safetensors", "ckpt"])
def test_hcp_diffusion_files_hold_the_finished_scale(tmp_path, factors, container):
    table = tiny_table.table()
    net = tiny_table.network(table)
    tensors = tiny_table.tensors_of(
        net, lambda n: f"{table.layers[n].module}.___", f"layer.{factors[0]}", f"layer.{factors[1]}"
    )
    for key in tensors:
        if key.endswith("alpha"):
            tensors[key] = torch.tensor(0.75)  # = alpha / rank = 1.5 / 2
    path = tmp_path / f"unet-1.{container}"
    if container == "ckpt":
        torch.save({"lora": tensors, "base": {}}, path)
    else:
        safetensors.torch.save_file({f"lora:{k}": v for k, v in tensors.items()}, path)
    same(net, read_network(path, tiny_table.names()).network)


def peft_file(tmp_path, metadata=None, name="a.safetensors"):
    table = tiny_table.table()
    net = tiny_table.network(table)
    tensors = tiny_table.tensors_of(
        net,
        lambda n: ("unet." if n.component == "unet" else "text_encoder.") + table.layers[n].module,
        "lora_A.weight",
        "lora_B.weight",
        alpha=None,
    )
    safetensors.torch.save_file(tensors, tmp_path / name, metadata)
    return tmp_path / name


def alphas(path):
    adapters = read_network(path, tiny_table.names()).network.adapters
    return {str(n): a.alpha for n, a in adapters.items()}


def test_peft_alpha_from_diffusers_metadata(tmp_path):
    config = {
        "unet.lora_alpha": 4,
        "unet.alpha_pattern": {"attn1.to_q": 7},
        "text_encoder.lora_alpha": 3,
        "text_encoder.use_rslora": True,
    }
    got = alphas(peft_file(tmp_path, {"lora_adapter_metadata": json.dumps(config)}))
    assert got.pop(f"unet:{tiny_table.BLOCK}.attn1.to_q") == 7
    assert {v for k, v in got.items() if k.startswith("unet")} == {4}
    assert {round(v, 5) for k, v in got.items() if k.startswith("te1")} == {round(3 * 2**0.5, 5)}


def test_peft_alpha_from_the_config_beside_the_file(tmp_path):
    path = peft_file(tmp_path, name="adapter_model.safetensors")
    assert set(alphas(path).values()) == {2.0}
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 5}')
    assert set(alphas(path).values()) == {5.0}
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(BadInput, match=r"adapter_config.json.*alpha is unknown"):
        alphas(path)
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": "much"}')
    with pytest.raises(BadInput, match="lora_alpha is no number"):
        alphas(path)


def test_peft_alpha_of_a_file_that_was_renamed(tmp_path):
    """Settings beside it are its own as long as there is no other network that they could be for."""
    path = peft_file(tmp_path, name="my cat.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 5}')
    assert set(alphas(path).values()) == {5.0}
    peft_file(tmp_path, name="my dog.safetensors")
    assert set(alphas(path).values()) == {2.0}


def test_unmatched_tensors_are_named_not_ignored(tmp_path):
    net = tiny_table.network(tiny_table.table())
    tensors = tiny_table.tensors_of(net, tiny_table.names().kohya)
    stem = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    extra = {
        "lora_unet_nowhere.lora_up.weight": torch.ones(2, 2),
        "lora_unet_nowhere.lora_down.weight": torch.ones(2, 2),
        "bundle_emb.cat.string_to_param.*": torch.ones(1, 8),
        f"{stem}.new_scale": torch.ones(24, 1),
        "lora_unet_down_blocks_0_attentions_0_proj_in.bias": torch.ones(8),
    }
    safetensors.torch.save_file({**tensors, **extra}, tmp_path / "a.safetensors")
    result = read_network(tmp_path / "a.safetensors", tiny_table.names())
    embedding = extra.pop("bundle_emb.cat.string_to_param.*")
    assert torch.equal(result.embeddings["cat"]["string_to_param.*"], embedding)
    # factors next to a tensor that nobody knows must not be applied as if it were not there
    left_out = {f"{stem}.{end}" for end in ("lora_up.weight", "lora_down.weight", "alpha")}
    assert set(result.unmatched) == set(extra) | left_out
    assert len(result.network.adapters) == len(net.adapters) - 1


def test_identity_is_of_content_not_of_name(tmp_path):
    names, table = tiny_table.names(), tiny_table.table()
    write_network(tmp_path / "a.safetensors", tiny_table.network(table, 1), names, {}, torch.float32)
    write_network(tmp_path / "b.safetensors", tiny_table.network(table, 1), names, META, torch.float32)
    write_network(tmp_path / "c.safetensors", tiny_table.network(table, 2), names, {}, torch.float32)
    a, b, c = (read_network(tmp_path / f"{n}.safetensors", names).network for n in "abc")
    assert a.identity == b.identity != c.identity
    assert len(a.identity) == 64


def test_overwriting_a_file_does_not_change_a_loaded_network(tmp_path):
    names, path = tiny_table.names(), tmp_path / "a.safetensors"
    net = tiny_table.network(tiny_table.table(), 1)
    write_network(path, net, names, {}, torch.float32)
    read = read_network(path, names).network
    path.write_bytes(b"\0" * path.stat().st_size)
    same(net, read)


def test_name_can_be_given(tmp_path):
    write_network(
        tmp_path / "a.safetensors", tiny_table.network(tiny_table.table()), tiny_table.names(), {}, torch.float32
    )
    assert read_network(tmp_path / "a.safetensors", tiny_table.names(), "other").network.name == "other"
