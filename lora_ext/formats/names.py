"""Every spelling of every layer's name, built forward from the model's own layers; nothing is parsed back."""

from __future__ import annotations

from collections.abc import Iterator

from lora_ext.layers import Layer, LayerName, LayerTable

UNET_UNDERSCORED = ("lora_unet_", "lycoris_", "lycoris_unet_")
UNET_DOTTED = ("unet.", "", "base_model.model.", "unet.base_model.model.", "diffusion_model.", "model.diffusion_model.")

# te1 of a model with one text encoder, te1 and te2 of a model with two
SOLE_UNDERSCORED = ("lora_te_", "lycoris_", "lycoris_te_")
SOLE_DOTTED = ("text_encoder.", "", "base_model.model.", "text_encoder.base_model.model.")
FIRST_UNDERSCORED = ("lora_te1_", "lycoris_te1_")
FIRST_DOTTED = ("text_encoder.", "text_encoder.base_model.model.", "clip_B.")
SECOND_UNDERSCORED = ("lora_te2_", "lycoris_te2_")
SECOND_DOTTED = ("text_encoder_2.", "text_encoder_2.base_model.model.", "clip_bigG.")

# how diffusers before 0.18 called the factors inside its attention processors
UNET_PROCESSOR = {"to_q": "to_q_lora", "to_k": "to_k_lora", "to_v": "to_v_lora", "to_out.0": "to_out_lora"}
TEXT_PROCESSOR = {"q_proj": "to_q_lora", "k_proj": "to_k_lora", "v_proj": "to_v_lora", "out_proj": "to_out_lora"}


class NameTable:
    """Looks file prefixes up; a prefix is a tensor's name without what the adapter kind adds (`.lora_up.weight`)."""

    def __init__(self, table: LayerTable) -> None:
        self.table = table
        self._sole = all(name.component != "te2" for name in table.layers)
        self._found: dict[str, Layer] = {}
        ambiguous: set[str] = set()
        for layer in table.layers.values():
            for spelling in self.spellings(layer):
                if self._found.setdefault(spelling, layer) is not layer:
                    ambiguous.add(spelling)
        # never guess between two layers: the file's tensor is then reported as unmatched
        for spelling in ambiguous:
            del self._found[spelling]

    def find(self, prefix: str) -> Layer | None:
        """The layer that `prefix` names in any known spelling, or None."""
        return self._found.get(prefix)

    def split(self, key: str) -> tuple[Layer, str] | None:
        """A file's tensor name as layer and rest (`lora_up.weight`), or None when no layer is named."""
        end = len(key)
        while (end := key.rfind(".", 0, end)) > 0:
            layer = self._found.get(key[:end])
            if layer is not None:
                return layer, key[end + 1 :]
        return None

    def kohya(self, name: LayerName) -> str:
        """The prefix we write, which every host reads: kohya's, with ldm names for SDXL's UNet."""
        layer = self.table.layers[name]
        if name.component == "unet":
            path = name.path if self.table.family == "sdxl" else layer.module
            return "lora_unet_" + _underscored(path)
        prefix = "lora_te_" if self._sole else {"te1": "lora_te1_", "te2": "lora_te2_"}[name.component]
        return prefix + _underscored(name.path)

    def spellings(self, layer: Layer) -> Iterator[str]:
        """Every prefix under which files name `layer`; the same one may come twice."""
        underscored, dotted = self._prefixes(layer.name)
        paths = {layer.module: None, layer.name.path: None}
        if layer.name.component != "unet":
            # transformers 5 has no such level in `CLIPTextModel`, so that files saved with it lack it
            paths[layer.name.path.removeprefix("text_model.")] = None
        for path in paths:
            yield from (prefix + _underscored(path) for prefix in underscored)
            yield from (prefix + path for prefix in dotted)
            for path_of_factors in _processor(layer.name, path):
                yield from (prefix + path_of_factors for prefix in dotted)

    def _prefixes(self, name: LayerName) -> tuple[tuple[str, ...], tuple[str, ...]]:
        if name.component == "unet":
            return UNET_UNDERSCORED, UNET_DOTTED
        if self._sole:
            return SOLE_UNDERSCORED, SOLE_DOTTED
        if name.component == "te1":
            return FIRST_UNDERSCORED, FIRST_DOTTED
        return SECOND_UNDERSCORED, SECOND_DOTTED


def _underscored(path: str) -> str:
    return path.replace(".", "_")


def _processor(name: LayerName, path: str) -> Iterator[str]:
    """Old diffusers: `….attn1.processor.to_q_lora` in the UNet, `….self_attn.to_q_lora` in the text encoder."""
    ends, between = (UNET_PROCESSOR, "processor.") if name.component == "unet" else (TEXT_PROCESSOR, "")
    for end, factors in ends.items():
        if path.endswith("." + end):
            yield path.removesuffix(end) + between + factors
