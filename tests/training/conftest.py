"""Runs are compared number by number here, so they add up in one order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """One thread, but where a module is marked `all_threads`.

    With two, oneDNN's gradient of a convolution whose output is a single pixel, as in the innermost blocks of the
    tests' models, varies in its last bit from call to call on some processors (Intel Xeon with AMX, torch 2.1 and
    2.13; not seen on AMD EPYC, nor at 4x4 pixels), and every step of a run enlarges that.
    """
    if request.node.get_closest_marker("all_threads"):
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
