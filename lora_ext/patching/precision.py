"""Exact float32 products, whatever the host has switched on around us."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch


@contextmanager
def exact_float32() -> Iterator[None]:
    """Inside: no gradients, no autocast, no TF32 and no bf16 stand-in for float32 products. Restores all of it."""
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast("cpu", enabled=False))
        if torch.cuda.is_available():
            stack.enter_context(torch.autocast("cuda", enabled=False))
        stack.enter_context(_plain_products())
        yield


@contextmanager
def _plain_products() -> Iterator[None]:
    # torch 2.9 brought a switch per backend and refuses to read the old global one when both were used
    backends: list[Any] = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    switches = [b for b in backends if b is not None and _has_switch(b)]
    if not switches:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
        return
    saved = [b.fp32_precision for b in switches]
    try:
        for backend in switches:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, value in zip(switches, saved, strict=True):
            backend.fp32_precision = value


def _has_switch(backend: Any) -> bool:
    try:
        return isinstance(backend.fp32_precision, str)
    except (AttributeError, AssertionError):  # torch < 2.9 says "Unknown attribute"
        return False
