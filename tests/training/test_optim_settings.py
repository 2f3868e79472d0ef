"""Settings of the optimizer and its schedule: none is ignored by a run, and every optimizer is the library's own."""

from __future__ import annotations

import importlib
import sys
import types

import pytest
import torch
from settings_table import about
from training_runs import model, run, same

from lora_ext.config import OptimConfig
from lora_ext.errors import BadInput
from lora_ext.training import Notice
from lora_ext.training.optimizer import ParameterGroup, Stepper, blind_step, fused_step
from lora_ext.training.optimizers import KINDS, check_optimizer, make_optimizer

CPU = torch.device("cpu")
HERE = ["adamw", "adafactor", "lion", "prodigy", "adamw_schedulefree", "dadapt_adam", "came"]
ARGUMENTS = {
    "adafactor": {"scale_parameter": False, "relative_step": False, "warmup_init": False},
    "dadapt_adam": {"decouple": True},
}


def peers_class(name):
    kind = KINDS[name]
    module = pytest.importorskip(kind.module, reason=f"{kind.install} is the peer of this check")
    return getattr(module, kind.name)


def parameters():
    random = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(*shape, generator=random)) for shape in ((8, 6), (5, 8), (3, 4, 3, 3))]


def stepper(listed, rate=1e-2, **optim):
    return Stepper([ParameterGroup(listed, rate)], OptimConfig(**optim), CPU, half=False)


@about("optimizer")
@pytest.mark.parametrize("name", HERE)
def test_an_optimizer_is_that_of_its_library(name):
    made = peers_class(name)
    rate = 1.0 if KINDS[name].one_rate else 1e-2
    ours, theirs = parameters(), parameters()
    s = stepper(ours, rate, optimizer=name, weight_decay=0.1, max_grad_norm=0.0)
    peer = made([{"params": theirs, "lr": rate}], lr=rate, weight_decay=0.1, **ARGUMENTS.get(name, {}))
    if hasattr(peer, "train"):
        peer.train()
    for _ in range(4):
        s.backward(sum((p**2).sum() for p in ours))
        s.step(1.0)
        sum((p**2).sum() for p in theirs).backward()
        peer.step()
        peer.zero_grad()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", HERE)
def test_a_run_learns_with_it_and_its_file_is_finite(tmp_path, name):
    peers_class(name)
    rate = 1.0 if KINDS[name].one_rate else 1e-2
    result = run(tmp_path, optimizer=name, learning_rate=rate, max_steps=3)
    assert all(torch.isfinite(t).all() for t in result.tensors.values())
    assert any(t.abs().sum() > 0 for k, t in result.tensors.items() if k.endswith("lora_up.weight"))


@pytest.mark.parametrize("name", HERE)
def test_a_blind_step_that_was_bad_leaves_no_trace(name):
    peers_class(name)
    if KINDS[name].reads_back:
        pytest.skip(f"{name} reads numbers back in its own step, so it is only called after a look")
    s = stepper(parameters(), optimizer=name)
    listed = s.parameters
    for step in range(4):
        before = [p.detach().clone() for p in listed]
        for p in listed:
            p.grad = p.detach() * (float("nan") if step == 2 else 1.0)
        if step == 0:
            s.optimizer.step()  # the first step makes the state
        else:
            blind_step(s.optimizer, torch.tensor(step != 2))
        moved = [not torch.equal(a, b) for a, b in zip(before, listed, strict=True)]
        assert all(moved) if step != 2 else not any(moved)
    state = [v for held in s.optimizer.state.values() for v in held.values() if isinstance(v, torch.Tensor)]
    assert state
    assert all(torch.isfinite(v).all() for v in state)


@pytest.mark.parametrize("name", [name for name in HERE if not KINDS[name].reads_back])
@pytest.mark.parametrize("late", [False, True])
def test_a_layer_whose_first_step_was_bad_learns_later(name, late):
    """As on a card, where nobody waits for the verdict."""
    peers_class(name)
    always, layer = (torch.nn.Parameter(torch.ones(8, 8)) for _ in range(2))
    s = stepper([always, layer], optimizer=name)
    s.on_cuda = True

    def step(factor, both=True):
        s.backward((always * factor).sum() + ((layer * factor).sum() if both else 0.0))
        s.step(1.0)

    if late:
        step(1.0, both=False)
    step(float("inf"))
    assert torch.equal(layer, torch.ones(8, 8))
    for _ in range(3):
        step(1.0)
    assert s.refusals() == 1
    assert all(torch.isfinite(p).all() and not torch.equal(p, torch.ones(8, 8)) for p in (always, layer))


def test_a_fused_step_that_was_bad_leaves_no_trace():
    """Also where every number is finite and only their length is not."""
    listed = parameters()
    try:
        optimizer = torch.optim.AdamW(listed, lr=1e-2, fused=True)
    except RuntimeError as e:
        pytest.skip(f"NOT TESTED: {e}")
    for step in range(4):
        before = [p.detach().clone() for p in listed]
        for p in listed:
            p.grad = p.detach().clone()
        fused_step(optimizer, torch.tensor(step not in (0, 2)))
        moved = [not torch.equal(a, b) for a, b in zip(before, listed, strict=True)]
        assert all(moved) if step in (1, 3) else not any(moved)
    assert {float(held["step"]) for held in optimizer.state.values()} == {2.0}
    assert not hasattr(optimizer, "found_inf")


@about("optimizer_class")
def test_any_class_by_name(tmp_path):
    made = make_optimizer(
        [(parameters(), 1e-2)], OptimConfig(optimizer="custom", optimizer_class="torch.optim.NAdam"), CPU
    )
    assert type(made) is torch.optim.NAdam
    plain = run(tmp_path / "a", optimizer="custom", optimizer_class="torch.optim.Adagrad")
    assert not same(plain.tensors, run(tmp_path / "b").tensors)


@pytest.mark.parametrize("name", ["", "NAdam", "torch.nn.Linear", "torch.optim.Nothing", "no_such_package.Adam"])
def test_what_is_no_optimizer_is_named(name):
    problems = list(check_optimizer(OptimConfig(optimizer="custom", optimizer_class=name), [1e-3], CPU))
    assert [p.field for p in problems] == ["optimizer_class"]


@pytest.mark.parametrize(("name", "why"), [("LBFGS", "closure"), ("SparseAdam", "dense gradients")])
def test_an_optimizer_that_cannot_step_is_told_before_the_run(name, why):
    optim = OptimConfig(optimizer="custom", optimizer_class=f"torch.optim.{name}", weight_decay=0.0)
    (problem,) = check_optimizer(optim, [1e-3], CPU)
    assert problem.field == "optimizer_class"
    assert why in str(problem)


@about("optimizer_args")
def test_arguments_are_passed_and_checked(tmp_path):
    optim = OptimConfig(optimizer_args="betas=(0.5, 0.9) eps=1e-3, amsgrad=true")
    group = make_optimizer([(parameters(), 1e-2)], optim, CPU).param_groups[0]
    assert (group["betas"], group["eps"], group["amsgrad"]) == ((0.5, 0.9), 1e-3, True)
    assert make_optimizer([(parameters(), 1e-2)], OptimConfig(optimizer_args="betas=0.5,0.9"), CPU)
    with pytest.raises(BadInput) as caught:
        run(tmp_path, optimizer_args="beta=0.5 eps=1e-3")
    (problem,) = caught.value.problems
    assert problem.field == "optimizer_args"
    assert "no argument beta" in problem.what
    assert "betas, eps, weight_decay" in problem.expected
    assert "lr" not in problem.expected.split(", ")


@pytest.mark.parametrize("text", ["betas", "eps=", "=3", "eps=1e-3 eps=1e-4", "betas=(0.9", "eps=-1", "betas=hello"])
def test_arguments_that_cannot_be_are_told(text):
    problems = list(check_optimizer(OptimConfig(optimizer_args=text), [1e-3], CPU))
    assert [p.field for p in problems] == ["optimizer_args"], problems


def test_a_missing_package_is_named_with_its_install_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lion_pytorch", None)
    with pytest.raises(BadInput) as caught:
        run(tmp_path, optimizer="lion")
    (problem,) = caught.value.problems
    assert problem.field == "optimizer"
    assert f'"{sys.executable}" -m pip install --no-deps "lion-pytorch"' in problem.fix
    assert not (tmp_path / "out").exists(), "told before anything starts"


EIGHT_BITS = {"adamw8bit": "AdamW8bit", "paged_adamw8bit": "PagedAdamW8bit"}


@pytest.mark.parametrize("name", EIGHT_BITS)
def test_eight_bits_need_their_package_and_a_device_it_was_built_for(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    (problem,) = check_optimizer(OptimConfig(optimizer=name), [1e-3], CPU)
    assert problem.field == "optimizer" and "bitsandbytes" in problem.fix

    class WithoutKernels(torch.optim.AdamW):
        def step(self, closure=None):
            assert all(p.numel() >= 4096 for group in self.param_groups for p in group["params"]), "held in 8 bits"
            raise NameError("name 'str2optimizer8bit_blockwise' is not defined")  # as bitsandbytes 0.45 on a CPU

    package = types.ModuleType("bitsandbytes.optim")
    setattr(package, EIGHT_BITS[name], WithoutKernels)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", package)
    (problem,) = check_optimizer(OptimConfig(optimizer=name), [1e-3], CPU)
    assert (problem.field, problem.expected) == ("optimizer", "an NVIDIA card")
    assert "does not run on cpu" in problem.what and "str2optimizer8bit" in problem.got and "adamw" in problem.fix


@pytest.mark.parametrize("name", EIGHT_BITS)
def test_eight_bits_train_where_the_package_can(tmp_path, name):
    if importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("BITSANDBYTES NOT TESTED: it is not installed")
    if problems := list(check_optimizer(OptimConfig(optimizer=name), [1e-3], CPU)):
        pytest.skip(f"BITSANDBYTES NOT TESTED: {problems[0]}")
    plain = run(tmp_path, max_steps=3, rank=16)
    small = run(tmp_path / "small", images=str(tmp_path / "pictures"), max_steps=3, rank=16, optimizer=name)
    assert not same(small.tensors, plain.tensors)
    for mine, exact in zip(small.steps, plain.steps, strict=True):
        assert mine.loss == pytest.approx(exact.loss, rel=0.02)


def test_finders_want_one_rate_and_are_told_theirs(tmp_path):
    peers_class("prodigy")
    with pytest.raises(BadInput, match="one learning rate") as caught:
        run(tmp_path, optimizer="prodigy", learning_rate=1.0, text_encoder_lr=0.5)
    assert [p.field for p in caught.value.problems] == ["optimizer"]
    result = run(tmp_path, optimizer="prodigy", learning_rate=1e-2)
    assert any("set it to 1" in n.text for n in result.of(Notice))
    assert result.steps[0].learning_rate < 1e-5, "what it found so far is in the figure"


def test_schedule_free_is_saved_at_rest_and_goes_on_bit_for_bit(tmp_path):
    made = peers_class("adamw_schedulefree")
    ours, theirs = parameters(), parameters()
    s = stepper(ours, optimizer="adamw_schedulefree", max_grad_norm=0.0)
    peer = made([{"params": theirs}], lr=1e-2, weight_decay=0.01)
    peer.train()
    for _ in range(5):
        s.backward(sum((p**2).sum() for p in ours))
        s.step(1.0)
        sum((p**2).sum() for p in theirs).backward()
        peer.step()
        peer.zero_grad()
        before = [p.detach().clone() for p in ours]
        with s.shown():
            shown = [p.detach().clone() for p in ours]
        assert all(torch.equal(a, b) for a, b in zip(before, ours, strict=True))
    peer.eval()
    assert all(torch.equal(a, b) for a, b in zip(shown, theirs, strict=True))
    assert not torch.equal(shown[0], ours[0])
    saving = run(tmp_path / "a", optimizer="adamw_schedulefree", max_steps=4, save_every_steps=1, preview_prompt="x")
    assert same(saving.tensors, run(tmp_path / "b", optimizer="adamw_schedulefree", max_steps=4).tensors)


@about("ema_decay")
def test_the_average_is_saved_and_the_run_goes_on_without_it(tmp_path):
    (p,) = [torch.nn.Parameter(torch.tensor([3.0]))]
    s = stepper([p], optimizer="custom", optimizer_class="torch.optim.SGD", max_grad_norm=0.0, ema_decay=0.5)
    want, values = 3.0, []
    for n in range(6):
        s.backward((p**2).sum())
        s.step(1.0)
        decay = min(0.5, (1 + n) / (10 + n))
        want = decay * want + (1 - decay) * p.item()
        values.append(p.item())
        with s.shown():
            assert p.item() == pytest.approx(want, rel=1e-6)
        assert p.item() == values[-1]
    averaged, plain = run(tmp_path / "a", ema_decay=0.9, max_steps=3), run(tmp_path / "b", max_steps=3)
    assert not same(averaged.tensors, plain.tensors)
    assert [s.loss for s in averaged.steps] == [s.loss for s in plain.steps]
    with pytest.raises(BadInput) as caught:
        run(tmp_path / "c", ema_decay=0.9, optimizer="adamw_schedulefree")
    assert [p.field for p in caught.value.problems] == ["ema_decay"]


@about("clip_each")
def test_groups_are_clipped_by_themselves(tmp_path):
    for each, want in ((True, [1.0, 1.0]), (False, [0.6, 0.8])):
        first, second = (torch.nn.Parameter(torch.tensor([v])) for v in (3.0, 4.0))
        optim = OptimConfig(
            clip_each=each,
            max_grad_norm=1.0,
            optimizer="custom",
            optimizer_class="torch.optim.SGD",
            weight_decay=0.0,
        )
        s = Stepper([ParameterGroup([first], 1.0), ParameterGroup([second], 1.0)], optim, CPU, half=False)
        s.backward((first**2 + second**2).sum() / 2)
        s.step(1.0)
        assert [3 - first.item(), 4 - second.item()] == pytest.approx(want, rel=1e-4)
    rates = {"learning_rate": 1e-2, "text_encoder_lr": 1e-2, "max_grad_norm": 1e-9}
    each, all_ = (run(tmp_path / str(c), clip_each=c, **rates) for c in (True, False))
    assert not same(each.tensors, all_.tensors)


@about("schedule_cycles", "schedule_power", "schedule_floor", "warmup_percent")
def test_schedules_reach_the_run(tmp_path):
    def rates(name, **values):
        return [s.learning_rate for s in run(tmp_path / name, max_steps=4, learning_rate=1.0, **values).steps]

    assert rates("a", schedule="linear") == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert rates("b", schedule="cosine_with_restarts", schedule_cycles=2) == pytest.approx([1.0, 0.5, 1.0, 0.5])
    assert rates("c", schedule="polynomial", schedule_power=3.0) == pytest.approx([1.0, 0.421875, 0.125, 0.015625])
    assert rates("d", schedule="rex") == pytest.approx([1.0, 0.75 / 0.875, 0.5 / 0.75, 0.25 / 0.625])
    assert rates("e", schedule="linear", schedule_floor=0.2) == pytest.approx([1.0, 0.8, 0.6, 0.4])
    assert rates("f", warmup_percent=50.0) == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0])


def test_bitsandbytes_is_asked_by_its_own_names():
    for name in ("adamw8bit", "paged_adamw8bit"):
        kind = KINDS[name]
        if importlib.util.find_spec("bitsandbytes") is None:
            pytest.skip("bitsandbytes is not installed: its class names are not checked")
        assert hasattr(importlib.import_module(kind.module), kind.name)


def test_the_model_is_left_alone_by_a_refused_start(tmp_path):
    live = model()
    before = {k: t._version for k, t in live.tensors.items()}
    with pytest.raises(BadInput):
        run(tmp_path, live, optimizer_args="nonsense=1")
    assert before == {k: t._version for k, t in live.tensors.items()}
