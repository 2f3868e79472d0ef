"""The loss on held-out pictures, always at the same noise: falls while learning, rises when learning by heart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lora_ext.data import Picture

if TYPE_CHECKING:
    from lora_ext.training.learner import Learner
    from lora_ext.training.material import Material

PLACES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Where in the noise schedule each picture is looked at, as parts of it."""


def validation_loss(learner: Learner, material: Material) -> float:
    """Mean plain loss over the held-out pictures and `PLACES`; on a GPU this waits for it.

    The noise hangs on the picture's place in the list alone, so that figures of other runs on the same data compare.
    """
    losses = [_of(learner, material, picture, n) for n, picture in enumerate(material.report.validation)]
    return float(torch.stack(losses).mean())


def _of(learner: Learner, material: Material, picture: Picture, number: int) -> Tensor:
    device = learner.model.device
    batch = material.held_out(picture, device)
    source = torch.Generator().manual_seed(number)  # on the CPU: the same numbers on every device
    steps = [int(place * len(learner.schedule)) for place in PLACES]
    found = []
    for step in steps:  # one at a time: no more memory than a step of training needs
        noise = torch.randn(batch.latents.shape, generator=source).to(device)
        found.append(learner.plain_loss(batch, noise, torch.tensor([step], device=device)))
    return torch.stack(found).mean()
