"""The memory of a card is there again for whoever needs it next: the host's parts, a preview, a rescued file."""

from __future__ import annotations

import contextlib
import gc
import weakref

import pytest
import torch
from training_runs import model, pictures, run

from lora_ext.errors import BadInput
from lora_ext.training.learner import Learner
from lora_ext.training.run import Run


@pytest.fixture
def folder(tmp_path):
    pictures(tmp_path / "pictures")
    return tmp_path


class Held(torch.Tensor):
    """A tensor that can be asked whether it is still alive."""


@pytest.fixture
def counted():
    """Without the collector of cycles, which may come too late on a full card."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def given_back(monkeypatch):
    """Calls `look` as the model goes back to the host."""

    def watch(look):
        session = type(model()).session

        @contextlib.contextmanager
        def watched(self):
            with session(self) as borrowed:
                try:
                    yield borrowed
                finally:
                    look()

        monkeypatch.setattr(type(model()), "session", watched)

    return watch


def fail_with(error, monkeypatch):
    """The second pass fails; gives the tensors that it held."""
    held, loss, passes = weakref.WeakSet(), Learner.loss, []

    def failing(self, *given):
        passes.append(1)
        if len(passes) == 1:
            return loss(self, *given)
        activations = torch.zeros(8).as_subclass(Held)
        held.add(activations)
        raise error("full")

    monkeypatch.setattr(Learner, "loss", failing)
    return held


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError, RuntimeError])
def test_a_failed_pass_is_gone(folder, monkeypatch, given_back, error):
    held, alive, rescue = fail_with(error, monkeypatch), {}, Run.rescue

    def rescued(self):
        alive["rescue"] = len(held)
        return rescue(self)

    monkeypatch.setattr(Run, "rescue", rescued)
    given_back(lambda: alive.update(model=len(held)))
    with pytest.raises((BadInput, RuntimeError)):
        run(folder, max_steps=9, checkpointing=True, batch_size=1)
    assert alive == ({"model": 0, "rescue": 0} if error is torch.cuda.OutOfMemoryError else {"model": 0})


@pytest.fixture
def modules(monkeypatch):
    """The UNets of ours that are alive."""
    made, build = weakref.WeakSet(), Learner._build

    def built(self):
        build(self)
        made.add(self.unet)

    monkeypatch.setattr(Learner, "_build", built)
    return made


@pytest.mark.usefixtures("counted")
def test_our_modules_are_gone_when_the_model_goes_back(folder, modules, given_back):
    """With weights in few bits, or copies in float32, they would take half of a card again."""
    alive = []
    given_back(lambda: alive.append(len(modules)))
    run(folder)
    assert alive == [0]


@pytest.mark.usefixtures("counted")
def test_our_modules_are_gone_while_a_preview_is_painted(folder, modules, monkeypatch):
    """Hosts move their weights for it; modules over them would hold on to where they were."""
    alive, render = [], model().render

    def watched(request):
        alive.append(len(modules))
        return render(request)

    monkeypatch.setattr(model(), "render", watched)
    run(folder, preview_prompt="x", preview_every=1)
    assert alive == [0, 0]
