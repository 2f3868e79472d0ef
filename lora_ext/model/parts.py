"""A part: one weight-bearing module of ours and the checkpoint tensors it lives in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from lora_ext.errors import BadInput, Problem
from lora_ext.layers import Op

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """One module with a weight and perhaps a bias.

    `module` is its path inside the diffusers / transformers model, `path` its canonical layer path, `key` and `bias`
    the checkpoint tensors, `shape` the shape of the module's own weight. `rows` is set where the tensors are fused
    (OpenCLIP's q/k/v), `transposed` where the checkpoint holds the transpose (OpenCLIP's text projection).
    """

    module: str
    path: str
    key: str
    bias: str | None
    shape: Shape
    op: Op
    rows: tuple[int, int] | None = None
    transposed: bool = False

    def weight_in(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The module's weight as a view into its checkpoint tensor. Raises `BadInput`."""
        tensor = _take(tensors, self.key, self.rows)
        return _fit(tensor.t() if self.transposed else tensor, self.shape, self.key)

    def bias_in(self, tensors: Mapping[str, Tensor]) -> Tensor | None:
        """The module's bias, likewise."""
        if self.bias is None:
            return None
        return _fit(_take(tensors, self.bias, self.rows), self.shape[:1], self.bias)


def state_dict(parts: Iterable[Part], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our modules' parameters by name, as views.

    Raises `BadInput` with every tensor that is missing or does not fit.
    """
    out: dict[str, Tensor] = {}
    problems: list[Problem] = []
    for part in parts:
        for name, find in (("weight", part.weight_in), ("bias", part.bias_in)):
            try:
                tensor = find(tensors)
            except BadInput as e:
                problems += e.problems
                continue
            if tensor is not None:
                out[f"{part.module}.{name}"] = tensor
    if problems:
        raise BadInput(*_few(problems))
    return out


def keys(parts: Iterable[Part]) -> Iterator[str]:
    """Every checkpoint key the parts use."""
    for part in parts:
        yield part.key
        if part.bias is not None:
            yield part.bias


def _take(tensors: Mapping[str, Tensor], key: str, rows: tuple[int, int] | None) -> Tensor:
    if key not in tensors:
        raise BadInput(
            Problem("checkpoint", f"the tensor {key} is missing", fix="The file is incomplete or of another build.")
        )
    return tensors[key] if rows is None else tensors[key][rows[0] : rows[1]]


def _fit(tensor: Tensor, shape: Shape, key: str) -> Tensor:
    """The tensor in `shape`: itself, or with the two axes of a 1x1 convolution dropped or added (views both)."""
    if tuple(tensor.shape) == shape:
        return tensor
    if tuple(tensor.shape) == (*shape, 1, 1):
        return tensor[:, :, 0, 0]
    if (*tensor.shape, 1, 1) == shape:
        return tensor[:, :, None, None]
    got = "x".join(map(str, tensor.shape)) or "a single number"
    raise BadInput(Problem("checkpoint", f"the tensor {key} has the wrong shape", "x".join(map(str, shape)), got))


def _few(problems: list[Problem], most: int = 8) -> list[Problem]:
    rest = len(problems) - most
    if rest <= 0:
        return problems
    return [*problems[:most], Problem("checkpoint", f"{rest} more tensors are missing or of the wrong shape")]
