"""A stand-in for bitsandbytes' block-wise formats: evenly spaced codes, one scale per block."""

from __future__ import annotations

import sys
import types

import torch


def install(monkeypatch):
    """Make `import bitsandbytes.functional` find it."""
    package, functions = types.ModuleType("bitsandbytes"), types.ModuleType("bitsandbytes.functional")
    functions.quantize_blockwise = lambda w, blocksize: _pack(w, blocksize, 127)
    functions.dequantize_blockwise = _unpack
    functions.quantize_4bit = lambda w, blocksize, compress_statistics, quant_type: _pack(w, blocksize, 7)
    functions.dequantize_4bit = _unpack
    package.functional = functions
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", functions)


def _pack(weight, block, most):
    flat = weight.float().flatten()
    blocks = torch.nn.functional.pad(flat, (0, -len(flat) % block)).view(-1, block)
    scales = blocks.abs().amax(1, keepdim=True).clamp(min=1e-12) / most
    return (blocks / scales).round().to(torch.int8), (scales, weight.shape, weight.dtype)


def _unpack(codes, state):
    scales, shape, dtype = state
    return (codes * scales).flatten()[: shape.numel()].view(shape).to(dtype)
