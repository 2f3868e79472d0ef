"""Textual inversion embeddings that travel in a LoRA's file: known to the host while the LoRA is in the prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from modules import sd_hijack, shared
from modules.textual_inversion import textual_inversion
from torch import Tensor

from lora_ext.errors import Problem
from lora_ext.hosts.selection import Embeddings
from lora_ext.hosts.webui import weights


class BundledEmbeddings:
    """What of ours is in the host's list of embeddings."""

    def __init__(self) -> None:
        self._known: dict[str, textual_inversion.Embedding] = {}

    def use(self, wanted: Embeddings, model: weights.HostModel) -> list[Problem]:
        """Have exactly `wanted` in the list, beside the user's own embeddings, which go first."""
        self._take_out(model)
        return [problem for word, data in wanted.items() for problem in self._put_in(word, data, model)]

    def _take_out(self, model: weights.HostModel) -> None:
        database = sd_hijack.model_hijack.embedding_db
        for word, embedding in self._known.items():
            if database.word_embeddings.get(word) is embedding:  # the host may have made its list anew
                database.register_embedding_by_name(None, model, word)
        self._known.clear()

    def _put_in(self, word: str, data: Mapping[str, Tensor], model: weights.HostModel) -> Iterator[Problem]:
        database = sd_hijack.model_hijack.embedding_db
        if word in database.word_embeddings:
            yield Problem(word, "the LoRA's file holds an embedding of this name; your own of the same name is used")
            return
        made = textual_inversion.create_embedding_from_data(_as_file(data), word, filename=word)
        if database.expected_shape not in (-1, made.shape):
            what = "the embedding in the LoRA's file does not fit this model and is left out"
            yield Problem(word, what, f"{database.expected_shape} wide", str(made.shape))
            return
        made.shorthash = word if getattr(shared.opts, "lora_bundled_ti_to_infotext", False) else ""
        database.register_embedding(made, model)
        self._known[word] = made


def _as_file(data: Mapping[str, Tensor]) -> dict[str, object]:
    """As the host's embedding files are laid out."""
    whole = {key.partition(".")[2]: tensor for key, tensor in data.items() if key.startswith("string_to_param.")}
    return {"string_to_param": whole} if whole else dict(data)
