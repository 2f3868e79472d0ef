"""What a session may disturb comes back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lora_ext.hosts import keepsake
from lora_ext.hosts.keepsake import move, tensors_of, undisturbed


def model() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.BatchNorm1d(4), nn.Dropout()), nn.Linear(4, 2))
    made.train()
    made[0].eval()
    made[0].weight.requires_grad_(False)
    made[2].bias.grad = torch.ones(2)
    return made


def facts(root: nn.Module) -> list[object]:
    modes = [(name, m.training) for name, m in root.named_modules()]
    grads = [t.grad for t in tensors_of(root)]
    return [modes, [(t.requires_grad, t.device, t.data_ptr()) for t in tensors_of(root)], list(map(id, grads))]


def test_inside_nothing_learns_and_outside_all_is_as_before() -> None:
    root = model()
    before, grad = facts(root), root[2].bias.grad
    with undisturbed([root, root[2]]):
        assert not any(m.training for m in root.modules())
        assert not any(t.requires_grad for t in tensors_of(root))
        root[0].train()
        root[0].weight.requires_grad_(True)
        root[0].weight.grad = torch.ones(4, 3)
        root[2].bias.grad = None
    assert facts(root) == before and root[2].bias.grad is grad


def test_also_after_an_exception() -> None:
    root = model()
    before = facts(root)
    with pytest.raises(KeyError), undisturbed([root]):
        root.eval()
        raise KeyError
    assert facts(root) == before


def test_flags_come_back_where_a_card_has_no_room_for_the_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(places: object) -> None:
        raise torch.cuda.OutOfMemoryError("full")

    root = model()
    before = [t.requires_grad for t in tensors_of(root)]
    monkeypatch.setattr(keepsake, "move", full)
    with pytest.raises(torch.cuda.OutOfMemoryError), undisturbed([root]):
        pass
    assert [t.requires_grad for t in tensors_of(root)] == before


def test_shared_tensors_are_met_once() -> None:
    tied = nn.Linear(3, 3)
    root = nn.Sequential(tied, nn.Linear(3, 3))
    root[1].weight = tied.weight
    assert len(tensors_of(root)) == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT TESTED: moving between devices needs a CUDA card")
def test_parts_leave_the_card_and_come_back() -> None:
    root = model().cuda()
    holder, weight = root[2].weight, root[2].weight.detach().clone()
    version = holder._version
    with undisturbed([root]):
        move((t, torch.device("cpu")) for t in tensors_of(root[2]))
        assert {t.device.type for t in tensors_of(root[2])} == {"cpu"} and holder.device.type == "cpu"
        assert root[0].weight.device.type == "cuda"
    assert {t.device.type for t in tensors_of(root)} == {"cuda"}
    assert root[2].weight is holder and torch.equal(holder, weight)
    assert holder._version == version, (
        "moving must not look like somebody's write: LoRAs that are on would be forgotten"
    )
