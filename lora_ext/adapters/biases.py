"""Which of a layer's tensors change its bias: in this house a bias is a layer of its own."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lora_ext.adapters.full import B_NORM, DIFF_B
from lora_ext.adapters.kept_module import KEPT_B
from lora_ext.adapters.lora import DOWN
from lora_ext.adapters.reading import SCALES, checked, rank_of, scale_of
from lora_ext.adapters.turned_input import BIAS_FACTOR
from lora_ext.errors import BadInput, Problem

UP_BIAS = "lora_up.bias"


def split_bias(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One layer's file tensors as those of its weight and those of its bias; either may be empty.

    Of the bias are `diff_b` and `b_norm` (LyCORIS), `bias_factor` (of peft's IA3), `kept.bias` (of its
    `modules_to_save`), and `lora_up.bias` (its `lora_bias`), which comes back as `diff_b` times the scale of its
    factors. LyCORIS' `bias_indices` and the like are a rest of the *weight*. Raises `BadInput` where `lora_up.bias`
    cannot be read.
    """
    bias = {name: tensors[name] for name in (DIFF_B, B_NORM, BIAS_FACTOR, KEPT_B) if name in tensors}
    weight = {name: tensor for name, tensor in tensors.items() if name not in {*bias, UP_BIAS}}
    if UP_BIAS in tensors:
        if bias:
            raise BadInput(Problem(UP_BIAS, f"comes beside {next(iter(bias))}", "one change of the bias"))
        bias[DIFF_B] = _scaled(tensors)
    if bias and set(weight) <= SCALES:
        weight = {}
    return weight, bias


def _scaled(tensors: Mapping[str, Tensor]) -> Tensor:
    found = checked(tensors, (UP_BIAS, DOWN))
    return found[UP_BIAS].detach().float() * scale_of(tensors, rank_of(DOWN, found[DOWN]))
