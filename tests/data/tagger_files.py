"""Tiny taggers in the files that real ones come in; the ONNX file is written by hand, byte by byte."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

TAGS = [
    ("general", 9),
    ("red", 0),
    ("green", 0),
    ("blue_sky", 0),
    ("^_^", 0),
    ("some_body_(of_a_story)", 4),
]


def tag_list(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{n},{name},{kind},1\n" for n, (name, kind) in enumerate(TAGS))
    (folder / "selected_tags.csv").write_text("tag_id,name,category,count\n" + rows, encoding="utf8")


def onnx_tagger(folder: Path, side: int = 16) -> Path:
    """Scores are the mean of B, G, R (as given, 0..255) times a matrix plus a bias, through a sigmoid."""
    tag_list(folder)
    weight, bias = matrix()
    nodes = [
        node("ReduceMean", ["pixels"], ["mean"], ints("axes", [1, 2]), integer("keepdims", 0)),
        node("MatMul", ["mean", "weight"], ["raw"]),
        node("Add", ["raw", "bias"], ["logits"]),
        node("Sigmoid", ["logits"], ["scores"]),
    ]
    graph = b"".join(field(1, n) for n in nodes) + field(2, b"tiny")
    graph += field(5, tensor("weight", weight)) + field(5, tensor("bias", bias))
    graph += field(11, value("pixels", [1, side, side, 3])) + field(12, value("scores", [1, len(TAGS)]))
    model = varint_field(1, 8) + field(7, graph) + field(8, field(1, b"") + varint_field(2, 13))
    (folder / "model.onnx").write_bytes(model)
    return folder


def matrix() -> tuple[np.ndarray, np.ndarray]:
    """For B, G, R in 0..255: red, green and blue are told by their channel alone."""
    weight = np.zeros((3, len(TAGS)), dtype=np.float32)
    weight[2, 1] = weight[1, 2] = weight[0, 3] = weight[0, 5] = 0.04
    weight[2, 4] = 0.02
    bias = np.array([9, -5, -5, -5, -2, -7], dtype=np.float32)
    return weight, bias


def timm_tagger(folder: Path) -> Path:
    """A vision transformer of random weights, in timm's files."""
    import timm
    import torch
    from safetensors.torch import save_file

    tag_list(folder)
    sizes = {"img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 1, "num_heads": 2}
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=len(TAGS), **sizes)
    save_file(model.state_dict(), str(folder / "model.safetensors"))
    shape = {"input_size": [3, 32, 32], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    config = {"architecture": "vit_tiny_patch16_224", "model_args": sizes, "pretrained_cfg": shape}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


# Protocol buffers' wire format, as far as ONNX needs it: https://protobuf.dev/programming-guides/encoding/


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint_field(number: int, content: int) -> bytes:
    return varint(number << 3) + varint(content)


def node(kind: str, entries: list[str], outputs: list[str], *attributes: bytes) -> bytes:
    data = b"".join(field(1, name.encode()) for name in entries) + b"".join(field(2, n.encode()) for n in outputs)
    return data + field(4, kind.encode()) + b"".join(field(5, one) for one in attributes)


def ints(name: str, numbers: list[int]) -> bytes:
    return field(1, name.encode()) + b"".join(varint_field(8, n) for n in numbers) + varint_field(20, 7)


def integer(name: str, number: int) -> bytes:
    return field(1, name.encode()) + varint_field(3, number) + varint_field(20, 2)


def tensor(name: str, values: np.ndarray) -> bytes:
    dims = b"".join(varint_field(1, n) for n in values.shape)
    return dims + varint_field(2, 1) + field(8, name.encode()) + field(9, values.tobytes())


def value(name: str, shape: list[int]) -> bytes:
    dims = b"".join(field(1, varint_field(1, n)) for n in shape)
    return field(1, name.encode()) + field(2, field(1, varint_field(1, 1) + field(2, dims)))
