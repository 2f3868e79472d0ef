"""Files laid out as diffusers, cloneofsimo's trainer, HCP-Diffusion and kohya's SDXL trainer write them."""

from __future__ import annotations

import json
import math
import warnings

import peer_models
import pytest
import safetensors.torch
import torch
from torch import nn

from lora_ext.errors import BadInput
from lora_ext.formats import read_info, read_network
from lora_ext.model import default_targets
from lora_ext.patching import Strengths


def factors(layer, rank, g):
    out, width, *kernel = layer.shape
    down = torch.randn(rank, width, *kernel, generator=g) * 0.2
    return torch.randn(out, rank, *(1 for _ in kernel), generator=g) * 0.2, down


def network(peer, layers, scale=1.0, rank=3, seed=1):
    """(up, down) by layer, with the merged weights put into the peer's reference."""
    g = torch.Generator().manual_seed(seed)
    made = {layer.name: factors(layer, rank + i % 2, g) for i, layer in enumerate(layers)}  # ranks differ per layer
    for layer in layers:
        up, down = made[layer.name]
        delta = (up.flatten(1) @ down.flatten(1)).reshape(layer.shape)
        peer.reference[layer.name] = layer.view(peer.tensors[layer.key]) + scale * delta
    return made


def checked(peer, path, names=None, bound=1e-5, unmatched=()):
    result = read_network(path, names or peer_models.names(peer.family, peer.inpainting))
    assert result.unmatched == tuple(sorted(unmatched))
    peer_models.check(peer, {result.network: Strengths()}, bound)
    return result


def targets(peer, component=None, conv=False):
    return [x for x in default_targets(peer.table, conv) if component in (None, x.name.component)]


# --- diffusers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("settings", [False, True])
@pytest.mark.parametrize("safe", [True, False])
def test_save_lora_weights(tmp_path, family, settings, safe):
    """Both containers; alpha in the metadata where this diffusers writes it, else alpha = rank."""
    peft = pytest.importorskip("peft", reason="peft is not installed: diffusers' files are not compared")
    import inspect

    import diffusers
    import peft_files

    pipeline = diffusers.StableDiffusionXLPipeline if family == "sdxl" else diffusers.StableDiffusionPipeline
    known = inspect.signature(pipeline.save_lora_weights).parameters
    if settings and not (safe and "unet_lora_adapter_metadata" in known):
        pytest.skip("this diffusers writes no settings into such a file")
    alpha = 3 if settings else 4
    peer, given = peer_models.peer(family), {}
    parts = {"unet": "unet", "te1": "text_encoder", "te2": "text_encoder_2"}
    for part, title in list(parts.items())[: 1 + len(peer.text)]:
        config = peft.LoraConfig(r=4, lora_alpha=alpha, target_modules=peft_files.WIDE)
        model = peft_files.wrapped(peer, part, config, torch.float16)
        state = {k.removeprefix("base_model.model."): t for k, t in peft.get_peft_model_state_dict(model.model).items()}
        given[f"{title}_lora_layers"] = {k: t.half() for k, t in state.items()}
        if settings:
            plain = {"r": 4, "lora_alpha": alpha, "use_rslora": False, "alpha_pattern": {}, "rank_pattern": {}}
            given[f"{title}_lora_adapter_metadata"] = plain
        peft_files.merge(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.save_lora_weights(str(tmp_path), safe_serialization=safe, **given)
    (path,) = tmp_path.iterdir()
    checked(peer, path, bound=1e-3)


# --- cloneofsimo -----------------------------------------------------------------------------------------------------


def walked(root: nn.Module, classes: set[str], kinds: tuple[type, ...]):
    """The modules in the order in which that trainer finds them."""
    for ancestor in root.modules():
        if type(ancestor).__name__ in classes:
            yield from (m for m in ancestor.modules() if isinstance(m, kinds))


UNET_CLASSES = {"CrossAttention", "Attention", "GEGLU"}
TEXT_CLASSES = {"CLIPAttention", "CLIPSdpaAttention"}


def positions(peer, part, extended=False):
    """Layers in the trainer's order, from the real modules of the whole model."""
    _, table, unet, text = peer_models._whole(peer.family, False)
    root = unet if part == "unet" else text[0]
    component = "unet" if part == "unet" else "te1"
    mine = [x for x in table.layers.values() if x.name.component == component and x.op in ("linear", "conv")]
    from lora_ext.model import module_of

    by_module = {id(module_of(root, layer)): layer for layer in mine}
    classes = TEXT_CLASSES if part != "unet" else UNET_CLASSES | ({"ResnetBlock2D"} if extended else set())
    found = [by_module[id(m)] for m in walked(root, classes, (nn.Linear, nn.Conv2d) if extended else (nn.Linear,))]
    assert len(found) > 7
    return found


@pytest.mark.parametrize("extended", [False, True])
def test_cloneofsimo_safetensors_with_a_word(tmp_path, extended):
    peer = peer_models.peer("sd1")
    tensors, metadata = {"<cat>": torch.randn(128)}, {"<cat>": "<embed>"}
    for part in ("unet", "text_encoder"):
        layers = positions(peer, part, extended and part == "unet")
        made = network(peer, layers, seed=len(part))
        metadata[part] = json.dumps(["CrossAttention"])
        for i, layer in enumerate(layers):
            up, down = made[layer.name]
            tensors |= {f"{part}:{i}:up": up, f"{part}:{i}:down": down}
            metadata[f"{part}:{i}:rank"] = str(len(down))
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(tensors, path, metadata)
    result = checked(peer, path)
    assert torch.equal(result.embeddings["<cat>"]["string_to_param.*"], tensors["<cat>"][None])
    info = read_info(path)
    assert info.embeddings == ("<cat>",)
    assert info.layers == len(result.network.adapters)


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
@pytest.mark.parametrize("zipped", [True, False])
def test_cloneofsimo_list(tmp_path, part, zipped):
    peer = peer_models.peer("sd1")
    layers = positions(peer, part)
    made = network(peer, layers)
    weights = [tensor.clone() for layer in layers for tensor in made[layer.name]]
    torch.save(weights, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    result = read_network(tmp_path / "a.pt", peer_models.names("sd1"))
    peer_models.check(peer, {result.network: Strengths()}, 1e-5, least=8)


def test_cloneofsimo_list_of_another_model(tmp_path):
    peer = peer_models.peer("sd1")
    weights = [
        tensor.clone() for layer in positions(peer, "unet")[:-1] for tensor in network(peer, [layer])[layer.name]
    ]
    torch.save(weights, tmp_path / "a.pt")
    with pytest.raises(BadInput, match="names no layers"):
        read_network(tmp_path / "a.pt", peer_models.names("sd1"))
    torch.save(weights[:-1], tmp_path / "a.pt")
    with pytest.raises(BadInput, match="list of factors is odd"):
        read_network(tmp_path / "a.pt", peer_models.names("sd1"))


# --- HCP-Diffusion ---------------------------------------------------------------------------------------------------

OLD, NEW = ("layer.lora_down.weight", "layer.lora_up.weight"), ("layer.W_down", "layer.W_up")


def hcp_tensors(peer, layers, ends, start="", alpha_auto_scale=True):
    """alpha 6 at ranks 3 and 4, divided by the rank or, with the switch off, not."""
    g = torch.Generator().manual_seed(2)
    tensors = {}
    for i, layer in enumerate(layers):
        rank = 3 + i % 2
        up, down = factors(layer, rank, g)
        scale = 6 / rank if alpha_auto_scale else 6.0
        stem = f"{start}{layer.module}.___."
        tensors |= {stem + ends[0]: down, stem + ends[1]: up, stem + "alpha": torch.tensor(scale)}
        delta = (up.flatten(1) @ down.flatten(1)).reshape(layer.shape)
        peer.reference[layer.name] = layer.view(peer.tensors[layer.key]) + scale * delta
    return tensors


@pytest.mark.parametrize("switch", [True, False])
@pytest.mark.parametrize("ends", [OLD, NEW], ids=["old", "new"])
def test_hcp_safetensors_with_averages(tmp_path, ends, switch):
    peer = peer_models.peer("sd1")
    tensors = hcp_tensors(peer, targets(peer, "unet", conv=True), ends, alpha_auto_scale=switch)
    whole = {f"lora:{key}": t for key, t in tensors.items()}
    averages = {f"lora_ema:{key}": t + 1 for key, t in tensors.items()}
    safetensors.torch.save_file({**averages, **whole}, tmp_path / "unet-100.safetensors")
    checked(peer, tmp_path / "unet-100.safetensors", unmatched=averages)


@pytest.mark.parametrize("ends", [OLD, NEW], ids=["old", "new"])
def test_hcp_checkpoint(tmp_path, ends):
    peer = peer_models.peer("sd1")
    tensors = hcp_tensors(peer, targets(peer, "te1"), ends)
    content = {"base": {}, "lora": tensors, "lora_ema": {key: t + 1 for key, t in tensors.items()}}
    torch.save(content, tmp_path / "text_encoder-100.ckpt")
    result = read_network(tmp_path / "text_encoder-100.ckpt", peer_models.names("sd1"))
    peer_models.check(peer, {result.network: Strengths()}, 1e-5, least=10)


def test_hcp_of_later_releases_for_sdxl(tmp_path):
    peer = peer_models.peer("sdxl")
    tensors = hcp_tensors(peer, targets(peer, "unet"), NEW, "base:denoiser.")
    tensors |= hcp_tensors(peer, targets(peer, "te1"), NEW, "base:TE.clip_L.")
    tensors |= hcp_tensors(peer, targets(peer, "te2"), NEW, "base:TE.clip_bigG.")
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
    checked(peer, tmp_path / "a.safetensors")


def test_hcp_loha_and_bias(tmp_path):
    peer = peer_models.peer("sd1")
    g = torch.Generator().manual_seed(3)
    tensors = {}
    layers = [x for x in targets(peer, "unet") if len(x.shape) == 2]
    for layer in layers:
        down, up = torch.randn(2, 3, layer.shape[1], generator=g), torch.randn(2, layer.shape[0], 3, generator=g)
        stem = f"lora:{layer.module}.___."
        tensors |= {f"{stem}layer.W_down": down, f"{stem}layer.W_up": up, f"{stem}alpha": torch.tensor(0.25)}
        tensors[f"{stem}layer.rank_groups"] = torch.tensor(2)
        product = (up[0] @ down[0]) * (up[1] @ down[1])
        peer.reference[layer.name] = layer.view(peer.tensors[layer.key]) + 0.25 * product
    te = targets(peer, "te1")[0]
    up, down = factors(te, 2, g)
    stem, shift = f"lora:{te.module}.___.", torch.randn(te.shape[0], generator=g)
    tensors |= {f"{stem}layer.lora_down.weight": down, f"{stem}layer.lora_up.weight": up}
    tensors |= {f"{stem}layer.lora_up.bias": shift, f"{stem}alpha": torch.tensor(0.5)}
    bias = peer.table.layers[te.name.bias]
    peer.reference[te.name] = te.view(peer.tensors[te.key]) + 0.5 * up @ down
    peer.reference[bias.name] = bias.view(peer.tensors[bias.key]) + 0.5 * shift
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
    checked(peer, tmp_path / "a.safetensors")


# --- kohya -----------------------------------------------------------------------------------------------------------


def kohya_tensors(names, made, prefix):
    tensors = {}
    for name, (up, down) in made.items():
        tensors |= {f"{prefix(name)}.lora_up.weight": up, f"{prefix(name)}.lora_down.weight": down}
        tensors[f"{prefix(name)}.alpha"] = torch.tensor(float(len(down)))
    return tensors


@pytest.mark.parametrize("spelling", ["ldm", "diffusers"])
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_both_kohya_spellings(tmp_path, family, spelling):
    peer, names = peer_models.peer(family), peer_models.names(family)
    made = network(peer, targets(peer, conv=True))

    def prefix(name):
        if name.component != "unet":
            return names.kohya(name)
        path = name.path if spelling == "ldm" else peer.table.layers[name].module
        return "lora_unet_" + path.replace(".", "_")

    safetensors.torch.save_file(kohya_tensors(names, made, prefix), tmp_path / "a.safetensors")
    checked(peer, tmp_path / "a.safetensors")


@pytest.mark.parametrize("start", ["lycoris_", "lycoris.", "lycoris_unet_", "unet.", "base_model.model."])
def test_lycoris_with_and_without_dots(tmp_path, start):
    peer, names = peer_models.peer("sd1"), peer_models.names("sd1")
    made = network(peer, targets(peer, "unet"))

    def prefix(name):
        module = peer.table.layers[name].module
        return start + (module.replace(".", "_") if start.endswith("_") else module)

    safetensors.torch.save_file(kohya_tensors(names, made, prefix), tmp_path / "a.safetensors")
    safetensors.torch.save_file(kohya_tensors(names, made, names.kohya), tmp_path / "b.safetensors")
    a, b = (read_network(tmp_path / f"{n}.safetensors", names) for n in "ab")
    assert a.unmatched == ()
    assert a.network.identity == b.network.identity


@pytest.mark.parametrize(("made_for", "loaded"), [("sd1", "sd2"), ("sd2", "sd1"), ("sdxl", "sd1"), ("sd1", "sdxl")])
def test_a_small_model_of_another_family(tmp_path, made_for, loaded):
    """Shrunken models have no family's widths; names and sizes tell all the same."""
    peer, names = peer_models.peer(made_for), peer_models.names(made_for)
    tensors = kohya_tensors(names, network(peer, targets(peer)), names.kohya)
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(BadInput, match=r"a\.safetensors: .*(for another model|this network is for)") as caught:
        read_network(tmp_path / "a.safetensors", peer_models.names(loaded))
    assert len(caught.value.problems) == 1


def test_a_part_of_a_model_is_enough(tmp_path):
    for component in ("unet", "te1"):
        peer, names = peer_models.peer("sd1"), peer_models.names("sd1")
        tensors = kohya_tensors(names, network(peer, targets(peer, component)), names.kohya)
        safetensors.torch.save_file(tensors, tmp_path / f"{component}.safetensors")
        checked(peer, tmp_path / f"{component}.safetensors")


def test_a_network_of_four_channels_on_an_inpainting_model(tmp_path):
    peer, names = peer_models.peer("sd1", inpainting=True), peer_models.names("sd1", True)
    first = _first(peer)
    assert first.shape[1] == 9
    made = network(peer, [*targets(peer), first])
    up, down = made[first.name]
    made[first.name] = up, down[:, :4].contiguous()
    base = first.view(peer.tensors[first.key])
    peer.reference[first.name][:, 4:] = base[:, 4:]
    safetensors.torch.save_file(kohya_tensors(names, made, names.kohya), tmp_path / "a.safetensors")
    checked(peer, tmp_path / "a.safetensors")


def _first(peer):
    return next(layer for layer in peer.table.layers.values() if layer.name.path == "input_blocks.0.0")


@pytest.mark.parametrize("inpainting", [False, True])
@pytest.mark.parametrize("kind", ["lora", "full", "loha"])
def test_the_first_convolution_of_another_input_is_left_out_and_named(tmp_path, inpainting, kind):
    """A network of an inpainting model on a plain one; of InstructPix2Pix's on both. The other layers mean the same."""
    peer, names = peer_models.peer("sd1", inpainting), peer_models.names("sd1", inpainting)
    first = _first(peer)
    out, width = first.shape[0], 8 if inpainting else 9
    own = {
        "lora": {"lora_up.weight": (out, 4, 1, 1), "lora_down.weight": (4, width, 3, 3)},
        "full": {"diff": (out, width, 3, 3)},
        "loha": {f"hada_w{n}_{x}": (4, width * 9) if x == "b" else (out, 4) for n in (1, 2) for x in "ab"},
    }[kind]
    tensors = kohya_tensors(names, network(peer, targets(peer)), names.kohya)
    added = {f"{names.kohya(first.name)}.{name}": torch.ones(size) for name, size in own.items()}
    safetensors.torch.save_file({**tensors, **added}, tmp_path / "a.safetensors")
    result = read_network(tmp_path / "a.safetensors", names)
    assert result.unmatched == tuple(sorted(added)) and set(result.network.adapters) == {t.name for t in targets(peer)}
    broken = {key: torch.full_like(tensor, math.nan) for key, tensor in added.items()}
    safetensors.torch.save_file({**tensors, **broken}, tmp_path / "a.safetensors")
    with pytest.raises(BadInput, match="NaN"):
        read_network(tmp_path / "a.safetensors", names)
    safetensors.torch.save_file(added, tmp_path / "a.safetensors")
    with pytest.raises(BadInput, match="does not fit"):
        read_network(tmp_path / "a.safetensors", names)


def test_bundled_embeddings_are_told_and_nothing_else_is_needed(tmp_path):
    words = {"bundle_emb.cat.string_to_param.*": torch.randn(2, 8), "bundle_emb.dog.clip_l": torch.randn(1, 8).half()}
    words["bundle_emb.dog.clip_g"] = torch.randn(1, 10)
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(words, path)
    result = read_network(path, peer_models.names("sd1"))
    assert result.network.adapters == {} and result.unmatched == ()
    assert {name: set(tensors) for name, tensors in result.embeddings.items()} == {
        "cat": {"string_to_param.*"},
        "dog": {"clip_l", "clip_g"},
    }
    assert result.embeddings["dog"]["clip_l"].dtype == torch.float32
    assert read_info(path).embeddings == ("cat", "dog")
    for bad in (torch.full((1, 8), float("nan")), torch.ones(1, 2, 8), torch.ones(1, 8).long()):
        safetensors.torch.save_file({"bundle_emb.cat.clip_l": bad}, path)
        with pytest.raises(BadInput, match=r"bundle_emb\.cat\.clip_l"):
            read_network(path, peer_models.names("sd1"))
