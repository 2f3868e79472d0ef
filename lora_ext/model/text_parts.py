"""Every weight of a CLIP text model, Hugging Face's layout and OpenCLIP's, under Hugging Face's names."""

from __future__ import annotations

from collections.abc import Iterator

from lora_ext.layers import Op
from lora_ext.model.architecture import TextShape
from lora_ext.model.parts import Part

ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


def text_parts(shape: TextShape) -> Iterator[Part]:
    """The parts in the order of the forward pass; canonical paths and module paths are the same."""
    return _open_clip(shape) if shape.fused else _hugging_face(shape)


def _hugging_face(shape: TextShape) -> Iterator[Part]:
    at, width = shape.prefix, shape.width
    embeddings = f"{at}embeddings"
    yield _text("embeddings.token_embedding", f"{embeddings}.token_embedding.weight", (shape.vocabulary, width))
    yield _text("embeddings.position_embedding", f"{embeddings}.position_embedding.weight", (shape.positions, width))
    for i in range(shape.layers):
        for name, weight, op in _layer(shape):
            path = f"encoder.layers.{i}.{name}"
            yield _text(path, f"{at}{path}.weight", weight, op, bias=f"{at}{path}.bias")
    name = "final_layer_norm"
    yield _text(name, f"{at}{name}.weight", (width,), "norm", bias=f"{at}{name}.bias")


def _open_clip(shape: TextShape) -> Iterator[Part]:
    at, width = shape.prefix, shape.width
    yield _text("embeddings.token_embedding", f"{at}token_embedding.weight", (shape.vocabulary, width))
    yield _text("embeddings.position_embedding", f"{at}positional_embedding", (shape.positions, width))
    for i in range(shape.layers):
        for name, weight, op in _layer(shape):
            block, path = f"{at}transformer.resblocks.{i}", f"encoder.layers.{i}.{name}"
            rows = _rows(name, width)
            if rows:
                key = f"{block}.attn.in_proj_"
                yield _text(path, f"{key}weight", weight, op, bias=f"{key}bias", rows=rows)
            else:
                key = f"{block}.{_OPEN_CLIP[name]}."
                yield _text(path, f"{key}weight", weight, op, bias=f"{key}bias")
    yield _text("final_layer_norm", f"{at}ln_final.weight", (width,), "norm", bias=f"{at}ln_final.bias")
    if shape.projection:
        yield Part(
            "text_projection",
            "text_projection",
            f"{at}text_projection",
            None,
            (shape.projection, width),
            "linear",
            transposed=True,
        )


_OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def _layer(shape: TextShape) -> Iterator[tuple[str, tuple[int, ...], Op]]:
    width = shape.width
    yield "layer_norm1", (width,), "norm"
    for part in ATTENTION:
        yield f"self_attn.{part}", (width, width), "linear"
    yield "layer_norm2", (width,), "norm"
    yield "mlp.fc1", (shape.mlp, width), "linear"
    yield "mlp.fc2", (width, shape.mlp), "linear"


def _rows(name: str, width: int) -> tuple[int, int] | None:
    """Where q, k and v stand in OpenCLIP's fused `in_proj`."""
    part = name.removeprefix("self_attn.")
    if part not in ATTENTION[:3]:
        return None
    first = ATTENTION.index(part) * width
    return first, first + width


def _text(
    path: str,
    key: str,
    shape: tuple[int, ...],
    op: Op = "embedding",
    *,
    bias: str | None = None,
    rows: tuple[int, int] | None = None,
) -> Part:
    whole = f"text_model.{path}"
    return Part(whole, whole, key, bias, shape, op, rows)
