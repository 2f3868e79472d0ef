"""A cache folder is brought back to its size, whoever else works in it."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch

from lora_ext.data import Store
from lora_ext.data.store_size import DAY, HOUR, prune


def filled(folder: Path, days: tuple[float, ...]) -> Store:
    """One entry for each number of days since it was last used."""
    store = Store(folder, "vae")
    for n, age in enumerate(days):
        store.put(f"{n}", {"x": torch.full((1000,), float(n))})
        used(store, n, age * DAY)
    return store


def used(store: Store, n: int, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(store._path(f"{n}"), (then, then))


def left(store: Store) -> list[int]:
    return [n for n in range(9) if store._path(f"{n}").exists()]


def test_what_was_not_used_for_longest_goes(tmp_path: Path) -> None:
    store = filled(tmp_path, (5, 9, 3, 7))
    each = store._path("0").stat().st_size
    assert prune(tmp_path, 2.5 * each) == 2 * each
    assert left(store) == [0, 2]
    assert prune(tmp_path, 2.5 * each) == 0


def test_nothing_of_the_last_day_goes_and_no_limit_means_none(tmp_path: Path) -> None:
    store = filled(tmp_path, (0.5, 2, 0))
    assert prune(tmp_path, 0) == 0
    prune(tmp_path, 1)
    assert left(store) == [0, 2]


def test_reading_an_entry_makes_it_young(tmp_path: Path) -> None:
    store = filled(tmp_path, (5, 5))
    assert store.get("0") is not None
    prune(tmp_path, 1)
    assert left(store) == [0]
    used(store, 0, HOUR / 2)
    before = store._path("0").stat().st_mtime
    assert store.get("0") is not None
    assert store._path("0").stat().st_mtime == before, "not at every reading"


def test_leftovers_of_a_killed_run_go_and_strangers_stay(tmp_path: Path) -> None:
    filled(tmp_path, ())
    old = time.time() - 2 * DAY
    for name in ("a.part", "b.part", "notes.txt"):
        (tmp_path / name).write_text("x", encoding="utf8")
    for name in ("a.part", "notes.txt"):
        os.utime(tmp_path / name, (old, old))
    prune(tmp_path, 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.part", "notes.txt"]


def test_a_folder_that_is_gone_is_no_fault(tmp_path: Path) -> None:
    assert prune(tmp_path / "nowhere", 1) == 0


def test_two_processes_at_once(tmp_path: Path) -> None:
    store = filled(tmp_path, (5,) * 8 + (0,))
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=prune, args=(tmp_path, 1.0)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert left(store) == [8]


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path, ())
    assert list(store.leave(1.0)) == []

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lora_ext.data.store.os.replace", full)
    assert not store.put("x", {"x": torch.zeros(1)})
    (told,) = store.leave(1.0)
    assert "No space left on device" in told
    assert str(tmp_path) in told
