"""Settings of the adapters: which layers, which kind, which numbers; none is ignored, and hosts can read each file."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
from settings_table import about
from test_learner import assert_close, batch, draw, gradients, learner
from training_runs import config, model, pictures, run, same

from lora_ext.adapters import ADAPTER_KINDS, LoraAdapter
from lora_ext.config import TrainConfig, read
from lora_ext.errors import BadInput
from lora_ext.formats import NameTable, read_network
from lora_ext.patching import Strengths
from lora_ext.training import Notice
from lora_ext.training.dropping import Rates
from lora_ext.training.layer_rules import block_of
from lora_ext.training.targets import plan


def planned(family="sd1", **values):
    given = read(TrainConfig, {"images": "x", "output": "x", **values})
    return {str(t.layer.name): t for t in plan(model(family).table, given)}


def refused(tmp_path, **values):
    pictures(tmp_path / "pictures")
    with pytest.raises(BadInput) as caught:
        run(tmp_path, **values)
    return [p.field for p in caught.value.problems]


KINDS = {
    "lora": {},
    "locon": {"conv_rank": 2},
    "loha": {"kind": "loha", "conv_rank": 2},
    "lokr": {"kind": "lokr", "conv_rank": 2},
    "oft": {"kind": "oft"},
    "ia3": {"kind": "ia3"},
    "full": {"kind": "full", "only_layers": "attn2|input_blocks.1.0"},
    "norm": {"kind": "norm"},
    "dora": {"dora": True},
    "dora of loha": {"kind": "loha", "dora": True},
    "norms too": {"train_norms": True},
    "pissa": {"init": "pissa"},
    "tucker": {"tucker": True, "conv_rank": 2},
}


@about("kind", "dora", "init", "tucker", "train_norms")
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_learns_and_its_file_gives_the_same_change(tmp_path, name):
    """What was trained, what was saved and what is read back are one ΔW."""
    made = learner(tmp_path, grown=False, **KINDS[name])
    for p in (p for g in made.groups() for p in g.parameters):
        p.data.add_(0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    given, drawn = batch(tokens=False), draw()
    live = model()
    trained = made.loss_of(given, *drawn)
    trained.backward()
    assert all(g is not None for g in gradients(made).values())
    with torch.no_grad():
        live.patcher.apply({made.network("x", "x"): Strengths()})
        try:
            applied = learner(tmp_path, grown=False).loss_of(given, *drawn)
        finally:
            live.patcher.clear()
    assert applied.item() == pytest.approx(trained.item(), rel=1e-4), "training and applying are one formula"

    result = run(tmp_path, max_steps=2, **KINDS[name])
    found = read_network(result.path, NameTable(live.table))
    assert not found.unmatched
    bases = {n: live.table.layers[n].view(live.tensors[live.table.layers[n].key]) for n in found.network.adapters}
    deltas = {n: a.delta(bases[n]).abs().max().item() for n, a in found.network.adapters.items()}
    assert sum(d > 0 for d in deltas.values()) > 0.9 * len(deltas)
    assert set(found.network.adapters) == set(made.adapters)


def test_the_list_of_kinds_is_the_adapters_rooms():
    from lora_ext.config import settings

    assert settings(TrainConfig)["kind"].choices == ADAPTER_KINDS


@about(
    "rslora",
    "lokr_factor",
    "lokr_decompose_both",
    "lokr_full",
    "oft_constraint",
    "oft_rescale",
    "ia3_side",
)
@pytest.mark.parametrize(
    ("base", "values"),
    [
        ({}, {"rslora": True}),
        ({"kind": "lokr"}, {"lokr_factor": 4}),
        ({"kind": "lokr"}, {"lokr_decompose_both": True, "lokr_factor": 4}),
        ({"kind": "lokr"}, {"lokr_full": True}),
        ({"kind": "oft"}, {"oft_constraint": 1e-4}),
        ({"kind": "oft"}, {"oft_rescale": True}),
        ({"kind": "ia3"}, {"ia3_side": "input"}),
    ],
    ids=lambda v: ",".join(v) or "-",
)
def test_options_of_a_kind(tmp_path, base, values):
    small = {"only_layers": "attn2", "rank": 4, "max_steps": 1}
    one, other = (run(tmp_path / n, **base, **more, **small) for n, more in (("a", {}), ("b", values)))
    assert not same(one.tensors, other.tensors)


def test_an_option_of_another_kind_is_refused(tmp_path):
    assert refused(tmp_path, lokr_factor=4) == ["lokr_factor"]
    assert refused(tmp_path, kind="loha", init="pissa") == ["init"]
    assert refused(tmp_path, ia3_side="input") == ["ia3_side"]
    assert refused(tmp_path, kind="loha", loraplus_ratio=16) == ["loraplus_ratio"]


@about("layers", "only_layers", "skip_layers")
def test_presets_and_patterns():
    usual, attention, forward = (set(planned(layers=name)) for name in ("usual", "attention", "attention_ff"))
    assert attention < forward < usual
    assert all(re.search(r"attn[12]\.", name) for name in attention)
    assert any(".ff.net." in name for name in forward - attention)
    assert any("proj_in" in name for name in usual - forward)
    everything = planned(layers="all")
    assert set(planned(conv_rank=4)) < set(everything)
    assert "unet:out.2" in everything
    assert "unet:input_blocks.0.0" in everything
    assert everything["unet:out.2"].rank == 32, "without a rank of their own convolutions take the general one"
    both = {"text_encoder_lr": 1e-4}
    assert any(name.startswith("te1:") and "self_attn" in name for name in planned(layers="attention", **both))
    assert not any(".mlp." in name for name in planned(layers="attention", **both))
    only = planned(only_layers=r"attn2\.to_[kv]", skip_layers="to_k")
    assert only
    assert all(name.endswith("attn2.to_v") for name in only)


def test_a_pattern_reaches_the_file(tmp_path):
    result = run(tmp_path, only_layers="attn2.to_k", max_steps=1)
    assert result.tensors
    assert all("attn2_to_k" in key for key in result.tensors)


@about("layer_rules", "block_rank", "block_lr")
def test_rules_and_blocks():
    rules = "attn2\\.to_k => rank=4 alpha=2 lr=5e-5 dropout=0.25 ; attn2 => rank=8\nff\\.net => rank=0"
    found = planned(layer_rules=rules, dropout=0.1)
    key = next(t for n, t in found.items() if n.endswith("attn2.to_k"))
    value = next(t for n, t in found.items() if n.endswith("attn2.to_v"))
    query = next(t for n, t in found.items() if n.endswith("attn1.to_q"))
    assert (key.rank, key.alpha, key.rate, key.dropout) == (4, 2.0, 5e-5, 0.25)
    assert (value.rank, value.alpha, value.rate, value.dropout) == (8, 16.0, 1e-4, 0.1)
    assert (query.rank, query.rate) == (32, 1e-4)
    assert not any(".ff.net." in name for name in found)
    blocks = planned(block_rank="IN01=3 MID=0", block_lr="in01=0.5, OUT03=0")
    by_block = {}
    for target in blocks.values():
        by_block.setdefault(block_of(target.layer), set()).add((target.rank, target.rate))
    assert by_block["IN01"] == {(3, 5e-5)}
    assert "MID" not in by_block
    assert "OUT03" not in by_block
    assert by_block["IN02"] == {(32, 1e-4)}


def test_rules_reach_the_optimizer_and_the_file(tmp_path):
    made = learner(tmp_path, layer_rules="attn2 => rank=3 lr=1e-3", learning_rate=1e-2)
    assert [(g.learning_rate) for g in made.groups()] == [1e-2, 1e-3]
    result = run(tmp_path, layer_rules="attn2 => rank=3 alpha=1.5", max_steps=1)
    ranks = {("attn2" in k, t.shape[0]) for k, t in result.tensors.items() if k.endswith("lora_down.weight")}
    assert ranks == {(True, 3), (False, 2)}
    assert {t.item() for k, t in result.tensors.items() if "attn2" in k and k.endswith("alpha")} == {1.5}


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("layer_rules", "attn2"),
        ("layer_rules", "attn2 => "),
        ("layer_rules", "attn2 => size=3"),
        ("layer_rules", "attn2 => rank=1.5"),
        ("layer_rules", "attn2( => rank=1"),
        ("layer_rules", "a => dropout=1"),
        ("only_layers", "["),
        ("skip_layers", "*"),
        ("block_rank", "IN99=3"),
        ("block_lr", "MID=fast"),
        ("only_layers", "nothing is called so"),
    ],
)
def test_what_cannot_be_read_names_its_setting(tmp_path, field, text):
    assert set(refused(tmp_path, **{field: text})) == {field}


def mean_change(tmp_path, **values):
    made = learner(tmp_path, only_layers="attn2.to_k", **values)
    return made, [made.loss(batch(tokens=False)).item() for _ in range(3)]


@about("dropout", "rank_dropout", "module_dropout", "weight_dropout")
@pytest.mark.parametrize("name", ["dropout", "rank_dropout", "module_dropout", "weight_dropout"])
def test_dropout_changes_the_loss_and_not_the_random_numbers_of_the_host(tmp_path, name):
    state = torch.get_rng_state()
    made, losses = mean_change(tmp_path, **{name: 0.5})
    assert torch.equal(torch.get_rng_state(), state)
    assert mean_change(tmp_path, **{name: 0.5})[1] == losses, "the same seed drops the same"
    assert losses != mean_change(tmp_path)[1]
    assert mean_change(tmp_path, kind="loha", **{name: 0.5})[0].groups()
    field = {"dropout": "inputs", "rank_dropout": "ranks", "module_dropout": "module", "weight_dropout": "weights"}
    assert made._rates(next(iter(made.targets.values()))) == Rates(**{field[name]: 0.5})
    result = run(tmp_path, max_steps=2, **{name: 0.5})
    assert not same(result.tensors, run(tmp_path / "plain", max_steps=2).tensors)


@pytest.mark.parametrize("name", ["dropout", "rank_dropout", "module_dropout", "weight_dropout"])
def test_dropout_keeps_the_mean_and_drops_as_often_as_told(name):
    from lora_ext.training.dropping import Dropping, Roll

    random = torch.Generator().manual_seed(0)
    adapter = LoraAdapter(torch.randn(8, 6, generator=random), torch.randn(5, 8, generator=random), None, 8.0)
    rates = {
        "dropout": Rates(inputs=0.25),
        "rank_dropout": Rates(ranks=0.25),
        "module_dropout": Rates(module=0.25),
        "weight_dropout": Rates(weights=0.25),
    }[name]
    roll = Roll()
    dropping = Dropping(adapter, rates, roll, "here", torch.device("cpu"))
    x, base = torch.randn(3, 6, generator=random), torch.zeros(5, 6)
    whole, total = adapter.forward_delta(x, base, None), torch.zeros(3, 5)
    for roll.value in range(4000):
        total += dropping.forward_delta(x, base, None)
    want = whole * (0.75 if name == "module_dropout" else 1.0)
    assert (total / 4000 - want).norm() < 0.06 * whole.norm()
    roll.value = 7
    assert torch.equal(dropping.forward_delta(x, base, None), dropping.forward_delta(x, base, None))


def test_dropout_and_checkpointing_agree(tmp_path):
    """A layer computed twice must drop the same twice, or the gradients are those of another pass."""
    found = []
    for checkpointing in (False, True):
        made = learner(tmp_path, dropout=0.5, rank_dropout=0.25, checkpointing=checkpointing)
        made.loss(batch(tokens=False), made.draw(batch(tokens=False))).backward()
        found.append(gradients(made))
    assert_close(found[1], found[0], 1e-6)


def test_dropout_is_the_same_for_a_batch_in_pieces(tmp_path):
    """As it goes through a model that ran out of memory, or through several processes; samples differ in what drops."""
    made, found = [learner(tmp_path, dropout=0.5, rank_dropout=0.25) for _ in range(2)], []
    whole = batch(tokens=False)
    drawn = made[0].draw(whole)
    for one, pieces in zip(made, [[slice(0, 2)], [slice(0, 1), slice(1, 2)]], strict=True):
        for which in pieces:
            (one.loss(whole[which], drawn[which]) / len(pieces)).backward()
        found.append(gradients(one))
    assert_close(found[1], found[0], 1e-4)
    first = drawn[:1]
    losses = {made[0].loss(whole[:1], replace(first, first=place)).item() for place in range(2)}
    assert len(losses) == 2, "another place in the batch, another mask"


def test_dropout_counts_samples_and_not_rows():
    """A text encoder sees a long caption as several rows."""
    from lora_ext.training.dropping import Dropping, Roll

    adapter, roll = LoraAdapter(torch.ones(1, 50), torch.ones(1, 1), None, 1.0), Roll(7, samples=2)
    dropping = Dropping(adapter, Rates(inputs=0.5), roll, "here", torch.device("cpu"))
    x, base = torch.ones(6, 50), torch.zeros(1, 50)
    whole = dropping.forward_delta(x, base, None)
    roll.first, roll.samples = 1, 1
    assert torch.equal(dropping.forward_delta(x[3:], base, None), whole[3:])
    assert len(set(whole.flatten().tolist())) > 3


@about("loraplus_ratio")
def test_loraplus(tmp_path):
    made = learner(tmp_path, loraplus_ratio=16.0, text_encoder_lr=1e-3)
    assert [g.learning_rate for g in made.groups()] == pytest.approx([1e-2, 0.16, 1e-3, 1.6e-2])
    ups = {id(a.up) for a in made.adapters.values()}
    for group in made.groups():
        faster = group.learning_rate in (pytest.approx(0.16), pytest.approx(1.6e-2))
        assert all((id(p) in ups) is faster for p in group.parameters)


@about("text_encoder_2_lr")
def test_the_second_text_encoder_has_its_own_rate(tmp_path):
    assert [g.learning_rate for g in learner(tmp_path, "sdxl", text_encoder_lr=1e-3).groups()] == [1e-2, 1e-3]
    made = learner(tmp_path, "sdxl", text_encoder_lr=1e-3, text_encoder_2_lr=1e-4)
    assert [g.learning_rate for g in made.groups()] == [1e-2, 1e-3, 1e-4]
    only = learner(tmp_path, "sdxl", text_encoder_2_lr=1e-4)
    assert {n.component for n in only.adapters} == {"unet", "te2"}
    pictures(tmp_path / "pictures")
    told = run(tmp_path, text_encoder_2_lr=1e-4, max_steps=1).of(Notice)
    assert any("one text encoder" in n.text for n in told)


@about("unet_stop", "text_encoder_stop")
def test_parts_stop_to_learn(tmp_path):
    both = {"text_encoder_lr": 1e-3, "max_steps": 4}
    short = run(tmp_path / "a", **{**both, "max_steps": 2}).tensors
    te = run(tmp_path / "b", text_encoder_stop=2, **both).tensors
    unet = run(tmp_path / "c", unet_stop=2, **both).tensors
    for stopped, prefix in ((te, "lora_te_"), (unet, "lora_unet_")):
        for key, tensor in stopped.items():
            if key.endswith("lora_up.weight") and tensor.abs().sum() > 0:
                assert torch.equal(tensor, short[key]) is key.startswith(prefix), key
    ended = run(tmp_path / "d", text_encoder_stop=2, unet_stop=3, **both)
    assert len(ended.steps) == 3, "nothing is left to learn"


@about("text_encoder_2_stop")
def test_each_text_encoder_stops_by_itself(tmp_path):
    both = {"text_encoder_lr": 1e-3, "learning_rate": 0.0, "max_steps": 3}
    short = run(tmp_path / "a", model("sdxl"), **{**both, "max_steps": 1}).tensors
    for name, values, still in (
        ("first", {"text_encoder_stop": 1, "text_encoder_2_stop": 0}, "lora_te1_"),
        ("second", {"text_encoder_2_stop": 1}, "lora_te2_"),
    ):
        stopped = run(tmp_path / name, model("sdxl"), **both, **values).tensors
        ups = [key for key in stopped if key.endswith("lora_up.weight") and stopped[key].abs().sum() > 0]
        assert {torch.equal(stopped[key], short[key]) for key in ups if key.startswith(still)} == {True}
        assert {torch.equal(stopped[key], short[key]) for key in ups if not key.startswith(still)} == {False}
    assert len(run(tmp_path / "both", model("sdxl"), **both, text_encoder_stop=2).steps) == 2, "-1: with the first"


@about("caption_tokens")
def test_long_captions_are_read_in_pieces(tmp_path):
    folder = pictures(tmp_path / "pictures")
    (folder / "1.txt").write_text("word " * 100, encoding="utf8")
    long = run(tmp_path / "a", images=str(folder), batch_size=3, caption_tokens="150")
    cut = run(tmp_path / "b", images=str(folder), batch_size=3)
    assert not same(long.tensors, cut.tensors)
    assert any("longer than 75" in n.text for n in cut.of(Notice))
    assert not any("longer than" in n.text for n in long.of(Notice))
    more = {"images": str(folder), "batch_size": 3, "text_encoder_lr": 1e-3}
    both = [run(tmp_path / f"te{n}", caption_tokens=n, **more) for n in ("75", "225")]
    assert both[0].steps[0].loss != both[1].steps[0].loss


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_short_captions_are_the_same_at_any_length(tmp_path, family):
    one, other = (run(tmp_path / n, model(family), caption_tokens=n, max_steps=1).steps[0].loss for n in ("75", "225"))
    assert one == pytest.approx(other, rel=1e-5)


def test_pieces_are_encoded_as_the_webui_does():
    from lora_ext.model import Tokenizer, build_text
    from lora_ext.training.captions import encoded, tokenized

    live = model("sdxl")
    text, tokenizer = build_text(live.architecture, live.tensors), Tokenizer()
    words = ["cat"] * 75 + ["dog"] * 20
    (tokens,) = tokenized([" ".join(words)], tokenizer, live.architecture, 150)
    assert [tuple(ids.shape) for ids in tokens] == [(2, 77), (2, 77)]
    with torch.no_grad():
        whole = encoded(text, tuple(ids[None] for ids in tokens), 0)
        parts = [
            text.encode(tokenizer.tokens([" ".join(part)], live.architecture)) for part in (words[:75], words[75:])
        ]
    assert torch.allclose(whole.context[0], torch.cat([p.context[0] for p in parts]), atol=1e-5)
    assert torch.allclose(whole.pooled, parts[0].pooled, atol=1e-5)


@about("start_from")
def test_going_on_from_a_file(tmp_path):
    first = run(tmp_path / "a", rank=3, alpha=1.5, layer_rules="attn2 => rank=5", text_encoder_lr=1e-3, conv_rank=2)
    path = str(first.path)
    images = {"images": str(tmp_path / "a" / "pictures")}
    on = run(tmp_path / "b", start_from=path, max_steps=1, **images)
    assert on.tensors.keys() == first.tensors.keys(), "layers and ranks are those of the file"
    assert {k: t.shape for k, t in on.tensors.items()} == {k: t.shape for k, t in first.tensors.items()}
    moved = {k for k in on.tensors if not torch.equal(on.tensors[k], first.tensors[k])}
    assert moved
    assert all(k.startswith("lora_unet_") for k in moved), "text layers do not learn, and stay in the file"
    fresh = run(tmp_path / "c", max_steps=1, **images)
    assert on.steps[0].loss != fresh.steps[0].loss
    assert refused(tmp_path, start_from=str(tmp_path / "nothing.safetensors")) == ["start_from"]
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    assert refused(tmp_path, start_from=str(tmp_path / "bad.safetensors")) == ["start_from"]
    assert refused(tmp_path, start_from=path, only_layers="nowhere") == ["start_from"]


def test_a_network_of_another_family_is_refused(tmp_path):
    other = run(tmp_path / "sdxl", model("sdxl"), max_steps=1)
    pictures(tmp_path / "pictures")
    with pytest.raises(BadInput) as caught:
        run(tmp_path, start_from=str(other.path))
    assert [p.field for p in caught.value.problems] == ["start_from"]


def test_settings_in_the_file_are_all_there(tmp_path):
    result = run(tmp_path, kind="loha", max_steps=1)
    assert json.loads(result.metadata["lora_ext.settings"])["kind"] == "loha"
    assert config(tmp_path).network.kind == "lora"
