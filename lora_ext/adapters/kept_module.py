"""What peft's `modules_to_save` keeps: a module that was trained whole, saved as it came out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from lora_ext.adapters.base import Adapter
from lora_ext.adapters.reading import Shape, check_layer, checked, fitted
from lora_ext.errors import BadInput, Problem

KEPT, KEPT_B = "kept.weight", "kept.bias"
"""Names of this program's own: in the file they are `weight` and `bias`, as a model's are."""


class KeptModule(Adapter):
    """ΔW = W - W0, W being the module's own weight, bias or norm after the training, in the layer's shape.

    It holds W whole, so that on another checkpoint than that of the training it takes the trained one's place too.
    """

    tensor_names: ClassVar[frozenset[str]] = frozenset({KEPT, KEPT_B})
    savable: ClassVar[bool] = False

    def __init__(self, whole: Tensor, name: str) -> None:
        super().__init__()
        self.whole = nn.Parameter(whole)
        self.name = name

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], shape: Shape) -> KeptModule:
        """Read one layer; `tensors` holds one of the two names."""
        check_layer(shape, "a module kept whole", (1, 2, 4))
        if len(tensors) != 1:
            raise BadInput(Problem(", ".join(sorted(tensors)), "is not one tensor", f"{KEPT} or {KEPT_B}"))
        name = next(iter(tensors))
        return cls(fitted(checked(tensors, (name,)), {name: shape}, shape)[0], name)

    def to_tensors(self) -> dict[str, Tensor]:
        """The tensor under its name."""
        return {self.name: self.whole.detach()}

    def delta(self, base: Tensor) -> Tensor:
        """ΔW in the shape of `base`, from which it is counted."""
        return self.whole.float().reshape(base.shape) - base.float()
