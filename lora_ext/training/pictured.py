"""A preview: the adapters in the live weights, rendered by the host, and everything put back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lora_ext.adapters import Network
from lora_ext.config import PreviewConfig, preview_wishes
from lora_ext.errors import BadInput
from lora_ext.live import LiveModel, RenderRequest
from lora_ext.patching import Strengths
from lora_ext.training.events import Notice, Preview

if TYPE_CHECKING:
    from lora_ext.training.learner import Learner


def previews(model: LiveModel, wish: PreviewConfig, learner: Learner, step: int) -> list[Preview | Notice]:
    """A picture for every prompt, with the adapters as they are now.

    A preview is not worth a run: when it cannot be made, a notice says why. The host may have moved tensors; the
    caller lets the learner settle.
    """
    network = learner.network("preview", f"preview at step {step}")
    return [_preview(model, one, network, step, number) for number, one in enumerate(preview_wishes(wish), 1)]


def _preview(model: LiveModel, wish: PreviewConfig, network: Network, step: int, number: int) -> Preview | Notice:
    request = RenderRequest(
        wish.preview_prompt,
        wish.preview_negative,
        wish.preview_seed,
        wish.preview_steps,
        wish.preview_cfg,
        wish.preview_width,
        wish.preview_height,
    )
    strength = Strengths(wish.preview_strength, wish.preview_strength)
    try:
        with torch.no_grad():
            model.patcher.apply({network: strength})
            image = model.render(request)
    except torch.cuda.OutOfMemoryError:
        return Notice("There was not enough memory for the preview; a smaller preview size may fit.")
    except BadInput as e:
        return Notice(f"There is no preview at step {step}: {e}")
    finally:
        model.patcher.clear()
    return Preview(step, wish.preview_prompt, image, number)
