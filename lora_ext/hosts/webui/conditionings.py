"""The host keeps encoded prompts by the wording of their tags; kept by what the tags come to, none is ever stale."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from modules import processing
from torch import Tensor

from lora_ext.adapters import Network
from lora_ext.hosts.selection import Embeddings
from lora_ext.patching import Strengths

NAMES = ("lora", "lyco")
"""Our entries among the tags of a prompt, as the host sorts them."""

TagsOfPrompt = Mapping[str, object]
"""The host's `extra_network_data`: kind of extra network -> its tags."""


def encoded_with(
    tags: TagsOfPrompt | None, networks: Mapping[Network, Strengths], embeddings: Embeddings
) -> TagsOfPrompt:
    """`tags` with ours replaced by what is on the text encoders: `networks` in the weights, `embeddings` in the list.

    The host compares it to tell whether a prompt must be encoded again. Another order, other strengths on the UNet or
    a tag that reaches no text encoder need no encoding; another file under the same name does.
    """
    others = {name: given for name, given in (tags or {}).items() if name not in NAMES}
    on_text = sorted((network.identity, _on_text(network, s)) for network, s in networks.items())
    words = sorted((word, _digest(data)) for word, data in embeddings.items())
    outcome = (*((identity, share) for identity, share in on_text if share), *words)
    return {**others, NAMES[0]: outcome} if outcome else others


def forget_conditionings(p: processing.StableDiffusionProcessing) -> None:
    """Empty the host's caches of encoded prompts: someone else encodes from now on."""
    for holder in (p, processing.StableDiffusionProcessing, processing.StableDiffusionProcessingTxt2Img):
        for name in ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc"):
            cache = getattr(holder, name, None)
            if cache is not None:
                cache[0] = None


def _on_text(network: Network, strengths: Strengths) -> tuple[tuple[str, float], ...]:
    """Strengths on the text encoders that are not 0, by layer only where layers differ."""
    layers = [layer for layer in network.adapters if layer.component != "unet"]
    if strengths.by_layer is None:
        return (("", strengths.text),) if layers and strengths.text else ()
    return tuple(sorted((str(layer), strengths.of(layer)) for layer in layers if strengths.of(layer)))


def _digest(embedding: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key, tensor in sorted(embedding.items()):
        digest.update(key.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
