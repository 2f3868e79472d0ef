"""Every spelling of every layer's name, built forward from the model's own layers; nothing is parsed back."""

from __future__ import annotations

from collections.abc import Iterator

from lora_ext.layers import Component, Layer, LayerName, LayerTable

UNET = (
    *("lora_unet_", "oft_unet_", "lycoris_", "lycoris_unet_"),  # kohya, its OFT, LyCORIS
    *("unet.", "base_model.model.", "unet.base_model.model.", ""),  # diffusers, PEFT, HCP-Diffusion 0
    *("diffusion_model.", "model.diffusion_model.", "denoiser."),  # ComfyUI, checkpoints, HCP-Diffusion 2
)

# te1 of a model with one text encoder; some SD 1.x files call it te1 all the same
SOLE = (
    *("lora_te_", "lora_te1_", "oft_te_", "lycoris_", "lycoris_te_", "lycoris_te1_"),
    *("text_encoder.", "base_model.model.", "text_encoder.base_model.model.", ""),
    *("text_encoders.clip_l.transformer.", "text_encoders.clip_h.transformer.", "clip_l.", "TE."),
    *("cond_stage_model.transformer.", "cond_stage_model.model."),
)
FIRST = (
    *("lora_te1_", "oft_te1_", "lycoris_te1_", "text_encoder.", "text_encoder.base_model.model."),
    *("text_encoders.clip_l.transformer.", "clip_l.", "clip_B.", "clip_L.", "TE.clip_B.", "TE.clip_L."),
    "conditioner.embedders.0.transformer.",
)
SECOND = (
    *("lora_te2_", "oft_te2_", "lycoris_te2_", "text_encoder_2.", "text_encoder_2.base_model.model."),
    *("text_encoders.clip_g.transformer.", "clip_g.", "clip_bigG.", "TE.clip_bigG."),
    "conditioner.embedders.1.model.",
)

# either of two text encoders, by trainers that were given one and know of no other
NAMELESS = ("lycoris_", "base_model.model.", "text_encoder.base_model.model.", "")

# how diffusers before 0.18 called the factors inside its attention processors
UNET_PROCESSOR = {"to_q": "to_q_lora", "to_k": "to_k_lora", "to_v": "to_v_lora", "to_out.0": "to_out_lora"}
TEXT_PROCESSOR = {"q_proj": "to_q_lora", "k_proj": "to_k_lora", "v_proj": "to_v_lora", "out_proj": "to_out_lora"}

# Hugging Face's names of a CLIP layer's parts -> OpenCLIP's
OPEN_CLIP = {"self_attn.": "attn.", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
OPEN_CLIP |= {"layer_norm1": "ln_1", "layer_norm2": "ln_2"}

ENCODERS: tuple[Component, ...] = ("te1", "te2")
LONGEST = 400
"""Characters of a tensor's name; no trainer writes half as many, and looking takes their square."""
MEMORY = 1 << 16
"""Prefixes whose layer is remembered; a file has three or so tensors to each."""


class NameTable:
    """Looks file prefixes up; a prefix is a tensor's name without what the adapter kind adds (`.lora_up.weight`).

    Dots and underscores count as the same, as trainers write one for the other (`lora_unet_down_blocks_0`,
    `unet.down_blocks.0`). A name that could mean two layers means none: its tensors are then reported as unmatched.
    `nameless` is the text encoder of SDXL that names without one mean; see `meanings`.
    """

    def __init__(self, table: LayerTable, nameless: Component | None = None) -> None:
        self.table = table
        self._nameless = nameless
        self._meanings: dict[Component, NameTable] = {}
        self._sole = all(name.component != "te2" for name in table.layers)
        self._paths: dict[Component, dict[str, Layer | None]] = {}
        for layer in table.layers.values():
            index = self._paths.setdefault(layer.name.component, {})
            for path in _paths(layer):
                spelled = _underscored(path)
                index[spelled] = layer if index.get(spelled, layer) is layer else None
        self._starts = [(_underscored(start), at) for at, starts in self._prefixes().items() for start in starts]
        self._known: dict[str, Layer | None] = {}

    def find(self, prefix: str) -> Layer | None:
        """The layer that `prefix` names in any known spelling, or None."""
        try:
            return self._known[prefix]
        except KeyError:  # no question asked before: another thread may forget everything in between
            layer = self._look(_underscored(prefix))
        if len(self._known) >= MEMORY:
            self._known.clear()
        self._known[prefix] = layer
        return layer

    def split(self, key: str) -> tuple[Layer, str] | None:
        """A file's tensor name as layer and rest (`lora_up.weight`), or None when no layer is named."""
        if len(key) > LONGEST:
            return None
        end = len(key)
        while (end := key.rfind(".", 0, end)) > 0:
            layer = self.find(key[:end])
            if layer is not None:
                return layer, key[end + 1 :]
        return None

    def meanings(self) -> Iterator[NameTable]:
        """For a model with two text encoders, the table in which names of neither mean the first, and that in which
        they mean the second."""
        if self._sole:
            return
        for component in ENCODERS:
            if component not in self._meanings:
                self._meanings[component] = NameTable(self.table, component)
            yield self._meanings[component]

    def kohya(self, name: LayerName) -> str:
        """The prefix we write, kohya's, which every host reads; ldm names in SDXL's UNet. A bias has its owner's."""
        layer = self.table.layers[name.owner]
        if name.component == "unet":
            path = layer.name.path if self.table.family == "sdxl" else layer.module
            return "lora_unet_" + _underscored(path)
        prefix = "lora_te_" if self._sole else {"te1": "lora_te1_", "te2": "lora_te2_"}[name.component]
        return prefix + _underscored(layer.name.path)

    def spellings(self, layer: Layer) -> Iterator[str]:
        """Every prefix under which files name `layer`; the same one may come twice, a bias has none."""
        for path in _paths(layer):
            for start in self._prefixes()[layer.name.component]:
                yield start + (_underscored(path) if start.endswith("_") else path)

    def _prefixes(self) -> dict[Component, tuple[str, ...]]:
        first = SOLE if self._sole else FIRST
        known: dict[Component, tuple[str, ...]] = {"unet": UNET, "te1": first, "te2": SECOND}
        return {part: (*starts, *(NAMELESS if part == self._nameless else ())) for part, starts in known.items()}

    def _look(self, spelled: str) -> Layer | None:
        found: Layer | None = None
        for start, component in self._starts:
            index, path = self._paths.get(component, {}), spelled[len(start) :]
            if not spelled.startswith(start) or path not in index:
                continue
            layer = index[path]
            if layer is None or found not in (None, layer):
                return None
            found = layer
        return found


def _paths(layer: Layer) -> Iterator[str]:
    """The dotted paths of a layer, without what comes before them. Biases are named by their owner's tensors."""
    if layer.op == "bias":
        return
    paths = dict.fromkeys((layer.module, layer.name.path))
    if layer.name.component != "unet":
        # transformers 5 has no such level in `CLIPTextModel`, so that files saved with it lack it
        paths[layer.name.path.removeprefix("text_model.")] = None
    for path in paths:
        yield path
        yield from _processor(layer.name, path)
    if ".resblocks." in layer.key:
        yield _open_clip(layer.name.path)


def _underscored(path: str) -> str:
    return path.replace(".", "_")


def _processor(name: LayerName, path: str) -> Iterator[str]:
    """Old diffusers: `….attn1.processor.to_q_lora` in the UNet, `….self_attn.to_q_lora` in the text encoder."""
    ends, between = (UNET_PROCESSOR, "processor.") if name.component == "unet" else (TEXT_PROCESSOR, "")
    for end, factors in ends.items():
        if path.endswith("." + end):
            yield path.removesuffix(end) + between + factors


def _open_clip(path: str) -> str:
    """`text_model.encoder.layers.0.mlp.fc1` as OpenCLIP has it: `transformer.resblocks.0.mlp.c_fc`."""
    path = path.replace("text_model.encoder.layers.", "transformer.resblocks.")
    for theirs, own in OPEN_CLIP.items():
        path = path.replace(theirs, own)
    return path
