"""The host keeps encoded prompts by their wording; a tag's wording may come to mean something else."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping

from modules import processing
from torch import Tensor

from lora_ext.adapters import Network
from lora_ext.hosts.selection import Embeddings
from lora_ext.patching import Strengths

REMEMBERED = 100
"""Wordings of which it is known what they came to."""

Outcome = tuple[tuple[str, object], ...]


class Conditionings:
    """Empties the host's cache when what was on the text encoders is not what it was for the same wording."""

    def __init__(self) -> None:
        self._outcomes: dict[Hashable, Outcome] = {}

    def check(
        self,
        p: processing.StableDiffusionProcessing,
        wording: Hashable,
        networks: Mapping[Network, Strengths],
        embeddings: Embeddings,
    ) -> None:
        """Call it before the host encodes `wording` with `networks` in the weights and `embeddings` in its list."""
        outcome: Outcome = (
            *sorted((network.identity, _on_text(network, s)) for network, s in networks.items()),
            *sorted((word, _digest(data)) for word, data in embeddings.items()),
        )
        if self._outcomes.get(wording) != outcome:
            forget_conditionings(p)
        self._outcomes[wording] = outcome
        while len(self._outcomes) > REMEMBERED:
            self._outcomes.pop(next(iter(self._outcomes)))

    def forget(self, p: processing.StableDiffusionProcessing) -> None:
        """Someone else encodes from now on."""
        self._outcomes.clear()
        forget_conditionings(p)


def forget_conditionings(p: processing.StableDiffusionProcessing) -> None:
    """Empty the host's caches of encoded prompts."""
    for holder in (p, processing.StableDiffusionProcessing, processing.StableDiffusionProcessingTxt2Img):
        for name in ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc"):
            cache = getattr(holder, name, None)
            if cache is not None:
                cache[0] = None


def _on_text(network: Network, strengths: Strengths) -> tuple[float, ...]:
    return tuple(sorted({strengths.of(layer) for layer in network.adapters if layer.component != "unet"}))


def _digest(embedding: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key, tensor in sorted(embedding.items()):
        digest.update(key.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
