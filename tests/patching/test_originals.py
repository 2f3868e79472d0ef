"""Where copies of W0 go, what memory they take, and that it is used again."""

from __future__ import annotations

import pytest
import torch
from tiny_model import LAYERS, TABLE, bits, network, weights

from lora_ext.patching import Strengths, WeightPatcher, originals, pool
from lora_ext.patching.originals import Copied, Originals, roomy
from lora_ext.patching.pool import Pool

NET = network(0)
ALL = sum(4 * torch.Size(layer.shape).numel() for layer in LAYERS)


def made():
    live = weights(torch.float32)
    return live, WeightPatcher(lambda: live, TABLE)


def test_memory_is_accounted_for_and_used_again():
    live, patcher = made()
    before = bits(live)
    report = patcher.apply({NET: Strengths()})
    assert (report.originals_bytes, patcher.spare_bytes) == (ALL, 0)
    first = {patcher._originals[name].tensor.data_ptr() for name in patcher._originals.names()}
    patcher.clear()
    assert (patcher.originals_bytes, patcher.spare_bytes) == (0, ALL)
    patcher.apply({NET: Strengths(0.5)})
    assert (patcher.originals_bytes, patcher.spare_bytes) == (ALL, 0)
    assert {patcher._originals[name].tensor.data_ptr() for name in patcher._originals.names()} == first
    patcher.clear()
    assert bits(live) == before
    patcher.release()
    assert patcher.spare_bytes == 0


def test_forget_returns_spare_memory():
    _live, patcher = made()
    patcher.apply({NET: Strengths()})
    patcher.clear()
    patcher.forget()
    assert patcher.spare_bytes == 0


def test_an_original_in_use_is_never_lent_twice():
    live, patcher = made()
    patcher.apply({NET: Strengths()})
    patcher.clear()
    patcher.apply({network(9, LAYERS[:2]): Strengths()})
    patcher.apply({NET: Strengths()})
    spans = [patcher._originals[name].tensor.data_ptr() for name in patcher._originals.names()]
    assert len(set(spans)) == len(LAYERS)
    patcher.clear()
    assert bits(live) == bits(weights(torch.float32))


def test_the_pool_is_bounded(monkeypatch):
    monkeypatch.setattr(pool, "POOL_LIMIT", 100)
    kept = Pool()
    for _ in range(5):
        kept.give(torch.zeros(10))
    assert kept.bytes == 80
    kept.take(torch.zeros(20, dtype=torch.float16))  # the same size under another dtype
    assert kept.bytes == 40
    kept.take(torch.zeros(7))  # another size comes fresh
    assert kept.bytes == 40
    assert pool.POOL_LIMIT < 1.7e9


def test_a_card_keeps_half_of_itself_free():
    assert roomy(1, free=6, total=8)
    assert not roomy(2, free=6, total=8)


@pytest.fixture
def card(monkeypatch):
    """CPU weights that take the ways of a card's."""
    answers = {"fits": True, "locked": True}
    monkeypatch.setattr(originals, "fits_on_device", lambda weight: answers["fits"])
    monkeypatch.setattr(originals, "on_cuda", lambda weight: True)
    monkeypatch.setattr(
        originals, "page_locked", lambda weight: torch.empty_like(weight) if answers["locked"] else None
    )
    return answers


def test_on_a_card_with_room_copies_stay_there(card):
    asked = []
    kept = Originals(lambda: asked.append(1))
    kept.keep(LAYERS[0], weights(torch.float32)[LAYERS[0].key])
    assert not asked
    assert not kept[LAYERS[0].name].pooled


@pytest.mark.parametrize("locked", [True, False])
def test_on_a_full_card_copies_are_page_locked_where_the_system_lets_us(card, locked):
    card.update(fits=False, locked=locked)
    asked = []
    kept = Originals(lambda: asked.append(1))
    weight = weights(torch.float32)[LAYERS[0].key]
    kept.keep(LAYERS[0], weight)
    assert asked  # the file comes first
    assert kept[LAYERS[0].name].pooled is not locked
    assert torch.equal(kept[LAYERS[0].name].tensor, weight)
    kept.drop(LAYERS[0].name)
    assert bool(kept.spare_bytes) is not locked


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine can lock pages")
def test_without_a_card_pages_cannot_be_locked():
    assert originals.page_locked(torch.zeros(3)) is None


def test_copies_do_not_share_memory_with_the_weight():
    kept = Originals(lambda: None)
    weight = torch.ones(12, 8)
    assert isinstance(kept.keep(LAYERS[0], weight), Copied)
    weight.zero_()
    assert kept[LAYERS[0].name].tensor.sum() == 96
