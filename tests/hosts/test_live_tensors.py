"""The live weights by checkpoint key, and by what encoded prompts are kept: two files of the WebUI's room, alone.

The room itself can only be imported inside the WebUI; there the same is tested through pictures.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn

from lora_ext.adapters import LoraAdapter, Network
from lora_ext.errors import BadInput
from lora_ext.layers import Layer, LayerName, LayerTable
from lora_ext.patching import Strengths, WeightPatcher

ROOM = Path(__file__).resolve().parents[2] / "lora_ext" / "hosts" / "webui"


def alone(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"alone_{name}", ROOM / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.wrapped = inner


class Model(nn.Module):
    """Built like the host's, without its size."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.diffusion_model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        self.first_stage_model = nn.Linear(2, 2)
        self.cond_stage_model = Wrapped(nn.Embedding(4, 2))
        self.looks = 0

    def state_dict(self, *args, **named):
        self.looks += 1
        return super().state_dict(*args, **named)


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def live(model: Model):
    return alone("weights").LiveTensors(model)


def test_every_tensor_under_its_checkpoint_key_and_no_second_look(model: Model, live) -> None:
    assert set(live()) == {
        *(f"model.diffusion_model.0.{name}" for name in ("weight", "bias")),
        *(f"model.diffusion_model.1.{n}" for n in ("weight", "bias", "running_mean", "running_var")),
        "model.diffusion_model.1.num_batches_tracked",
        *("first_stage_model.weight", "first_stage_model.bias", "cond_stage_model.weight"),
    }
    assert live()["model.diffusion_model.0.weight"] is model.model.diffusion_model[0].weight
    assert live()["model.diffusion_model.1.running_mean"] is model.model.diffusion_model[1].running_mean
    assert model.looks == 1


def test_a_moved_and_a_replaced_tensor_are_seen(model: Model, live) -> None:
    live()
    layer = model.model.diffusion_model[0]
    layer.weight.data = torch.ones(3, 2)
    assert torch.equal(live()["model.diffusion_model.0.weight"], torch.ones(3, 2))
    layer.weight = nn.Parameter(torch.zeros(3, 2))
    assert live()["model.diffusion_model.0.weight"] is layer.weight
    model.half()
    assert {t.dtype for t in live().values()} == {torch.float16, torch.int64}


@pytest.mark.parametrize("change", ["module", "wrapper", "added", "removed"])
def test_a_replaced_module_is_seen(change: str, model: Model, live) -> None:
    live()
    if change == "module":
        model.model.diffusion_model[0] = nn.Linear(2, 3)
    elif change == "wrapper":
        model.cond_stage_model = Wrapped(Wrapped(model.cond_stage_model.wrapped))
    elif change == "added":
        model.model.diffusion_model.append(nn.Linear(1, 1))
    else:
        del model.model.diffusion_model[0].bias
    fresh = alone("weights").tensors(model)
    assert live().keys() == fresh.keys() and all(live()[key] is tensor for key, tensor in fresh.items())


def test_what_no_module_holds_is_asked_for_each_time(model: Model, live) -> None:
    model._register_state_dict_hook(lambda m, found, *_: found.update({"first_stage_model.made": torch.ones(1)}))
    assert "first_stage_model.made" in live() and "first_stage_model.made" in live()
    assert model.looks == 2


@pytest.fixture
def kept_by(monkeypatch: pytest.MonkeyPatch):
    host = ModuleType("modules")
    host.processing = SimpleNamespace(StableDiffusionProcessing=object)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "modules", host)
    return alone("conditionings").encoded_with


def network(identity: str, *components: str) -> Network:
    layers = {LayerName(c, "a"): LoraAdapter.create((4, 4), 1, 1.0) for c in components}  # type: ignore[arg-type]
    return Network("n", layers, {}, identity)


def test_prompts_are_encoded_again_only_for_what_reaches_the_text_encoder(kept_by) -> None:
    one, two, unet = network("1", "unet", "te1"), network("2", "te1"), network("3", "unet")
    given = {"lora": ["tags as written"], "hypernet": ["h"]}
    both = kept_by(given, {one: Strengths(0.5, 0.7), two: Strengths(1.0, 0.2)}, {})
    assert both["hypernet"] == ["h"] and both["lora"] != given["lora"]
    assert kept_by(given, {two: Strengths(1.0, 0.2), one: Strengths(0.1, 0.7), unet: Strengths()}, {}) == both
    assert kept_by({"hypernet": ["h"]}, {unet: Strengths()}, {}) == {"hypernet": ["h"]} == kept_by(given, {}, {})
    for other in ({one: Strengths(0.5, 0.7)}, {one: Strengths(0.5, 0.71), two: Strengths(1.0, 0.2)},
                  {network("other file", "te1"): Strengths(0.5, 0.7), two: Strengths(1.0, 0.2)}):  # fmt: skip
        assert kept_by(given, other, {}) != both
    assert kept_by({**given, "hypernet": ["i"]}, {one: Strengths(0.5, 0.7), two: Strengths(1.0, 0.2)}, {}) != both


def test_block_weights_count_by_layer(kept_by) -> None:
    both = network("1", "te1", "te2", "unet")
    te1, te2, unet = (LayerName(c, "a") for c in ("te1", "te2", "unet"))

    def of(strengths: dict[LayerName, float]) -> object:
        return kept_by({}, {both: Strengths(1.0, 1.0, strengths)}, {})

    assert of({te1: 1.0, te2: 0.5}) != of({te1: 0.5, te2: 1.0})
    assert of({te1: 0.5, te2: 1.0}) == of({te1: 0.5, te2: 1.0, unet: 9.0})
    assert of({unet: 1.0}) == {}


def test_embeddings_in_a_file_count_by_their_numbers(kept_by) -> None:
    a, b = {"string_to_param.*": torch.zeros(1, 2)}, {"string_to_param.*": torch.ones(1, 2)}
    assert kept_by({}, {}, {"w": a}) == kept_by({}, {}, {"w": {**a}})
    assert kept_by({}, {}, {"w": a}) != kept_by({}, {}, {"w": b}) != kept_by({}, {}, {})


@pytest.fixture
def webui_model(monkeypatch: pytest.MonkeyPatch):
    """`WebuiModel` without a WebUI: its room's other files, and the host's, are stood in for."""
    for name in ("modules", "modules.call_queue"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    room = ModuleType("lora_ext.hosts.webui")
    room.weights = SimpleNamespace(HostModel=object)
    monkeypatch.setitem(sys.modules, "lora_ext.hosts.webui", room)
    for name in ("builtin", "job", "picture"):
        monkeypatch.setitem(sys.modules, f"lora_ext.hosts.webui.{name}", MagicMock())
    table = tiny_table()
    tensors = {layer.key: torch.ones(layer.shape, dtype=torch.float16) for layer in table.layers.values()}
    made = object.__new__(alone("live").WebuiModel)
    made._model = SimpleNamespace(sd_checkpoint_info=object())
    made.table, made._tensors, made._versions = table, lambda: tensors, {}
    made._record = made._seen = made._model.sd_checkpoint_info
    made.patcher = WeightPatcher(made._tensors, table)
    return made


def tiny_table() -> LayerTable:
    layers = [Layer(LayerName("unet", path), f"{path}.weight", None, (4, 4), "linear", path) for path in ("a", "b")]
    return LayerTable("sd1", {layer.name: layer for layer in layers})


def of_strength(value: float, layers: LayerTable) -> Network:
    up, down = torch.full((4, 1), value), torch.ones(1, 4)
    return Network(str(value), {name: LoraAdapter(down, up, None, 1.0) for name in layers.layers}, identity=str(value))


def test_what_a_refusal_puts_back_is_not_taken_for_another_checkpoint(webui_model) -> None:
    """It writes every weight; W0 must not be lost over that, nor the networks stay in it."""
    fine, loud = of_strength(0.5, webui_model.table), of_strength(1e6, webui_model.table)
    weights = webui_model.tensors
    webui_model.apply({fine: Strengths()})
    before = {key: tensor.clone() for key, tensor in weights.items()}
    for wanted in ({loud: Strengths()}, {loud: Strengths(), fine: Strengths()}):
        with pytest.raises(BadInput, match="float16"):
            webui_model.apply(wanted)
        webui_model.apply({fine: Strengths()})
        assert all(torch.equal(tensor, before[key]) for key, tensor in weights.items())
    webui_model.apply({})
    assert all(torch.equal(tensor, torch.ones_like(tensor)) for tensor in weights.values())


def test_another_checkpoint_in_the_same_tensors_is_noticed_after_a_refusal_too(webui_model) -> None:
    fine, loud = of_strength(0.5, webui_model.table), of_strength(1e6, webui_model.table)
    webui_model.apply({fine: Strengths()})
    with pytest.raises(BadInput):
        webui_model.apply({loud: Strengths()})
    for tensor in webui_model.tensors.values():
        tensor.fill_(2.0)
    webui_model.apply({fine: Strengths()})
    assert all(bool((tensor == 2.5).all()) for tensor in webui_model.tensors.values())
