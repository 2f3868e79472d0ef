"""The text encoders as transformers modules over a checkpoint's tensors, and what their hidden states are used for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lora_ext.errors import BadInput, Problem
from lora_ext.model.architecture import Architecture, TextShape
from lora_ext.model.sharing import build_over
from lora_ext.model.text_parts import text_parts
from lora_ext.model.tokenizer import END_ID, START_ID, Tokens


@dataclass(frozen=True)
class Conditioning:
    """What the UNet is told by a caption: `context` [B, 77, C] for cross attention, `pooled` [B, P] for SDXL."""

    context: Tensor
    pooled: Tensor | None


def build_text(arch: Architecture, tensors: Mapping[str, Tensor]) -> TextEncoders:
    """The text encoders over the same storage: writing a host tensor changes their output. Frozen, in eval mode."""
    return TextEncoders(arch, [_encoder(shape, tensors) for shape in arch.text])


class TextEncoders(nn.Module):
    """All text encoders of a model. `encoders` holds them in order (te1, te2)."""

    def __init__(self, arch: Architecture, encoders: list[nn.Module]) -> None:
        super().__init__()
        self.arch = arch
        self.encoders = nn.ModuleList(encoders)
        self.eval()

    def encode(self, tokens: Tokens, clip_skip: int = 0) -> Conditioning:
        """Encode one [B, 77] tensor of ids per encoder; gradients flow when they are on.

        `clip_skip` n takes the hidden states of the n-th layer from the end, 0 what the model itself uses (SD1 the
        last, SD2 the last but one); in SD1 and SD2 the final norm follows (A1111's rule). SDXL always takes the last
        but one of both encoders, without norm, and pools the end token of the second one's last layer.
        Raises `BadInput` when there are not that many layers.
        """
        layer = self._layer(clip_skip)
        if self.arch.family != "sdxl":
            hidden, _ = _states(self.encoders[0], tokens[0], layer)
            return Conditioning(_inner(self.encoders[0], "final_layer_norm")(hidden), None)
        first, _ = _states(self.encoders[0], tokens[0], layer)
        second, last = _states(self.encoders[1], tokens[1], layer)
        pooled = self.encoders[1].get_submodule("text_projection")(_at_end(last, tokens[1]))
        return Conditioning(torch.cat([first, second], dim=-1), pooled)

    def _layer(self, clip_skip: int) -> int:
        if self.arch.family == "sdxl" or clip_skip == 0:
            return self.arch.clip_skip
        layers = self.arch.text[0].layers
        if not 1 <= clip_skip <= layers:
            what = "the text encoder has not so many layers"
            raise BadInput(Problem("clip_skip", what, f"1 to {layers}, or 0", str(clip_skip)))
        return clip_skip


def added_conditioning(arch: Architecture, pooled: Tensor | None, sizes: Tensor) -> dict[str, Tensor] | None:
    """SDXL's further inputs as diffusers' UNet takes them (`added_cond_kwargs`); None for the other families.

    `pooled` [B, P]; `sizes` [B, 6] in pixels: original height and width, crop top and left, target height and width.
    """
    if arch.family != "sdxl":
        return None
    if pooled is None:
        raise ValueError("SDXL needs the pooled text")
    return {"text_embeds": pooled, "time_ids": sizes.to(pooled.device, torch.float32)}


def _states(encoder: nn.Module, ids: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """Hidden states [B, 77, W] of the n-th layer from the end, before the final norm; and the last ones, after it."""
    out = encoder(input_ids=ids, output_hidden_states=True, return_dict=True)
    return out.hidden_states[-layer], out.last_hidden_state


def _at_end(hidden: Tensor, ids: Tensor) -> Tensor:
    """The states [B, W] at the end token, the highest id there is (OpenCLIP's pooling)."""
    return hidden[torch.arange(len(ids), device=hidden.device), ids.argmax(dim=-1)]


def _encoder(shape: TextShape, tensors: Mapping[str, Tensor]) -> nn.Module:
    return build_over(lambda: _clip(shape), text_parts(shape), tensors, _module_name)


def _clip(shape: TextShape) -> nn.Module:
    config = CLIPTextConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.mlp,
        projection_dim=shape.projection or shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=shape.positions,
        hidden_act=shape.activation,
        layer_norm_eps=1e-5,
        attention_dropout=0.0,
        bos_token_id=START_ID,
        eos_token_id=END_ID,
    )
    model: nn.Module = (CLIPTextModelWithProjection if shape.projection else CLIPTextModel)(config)
    return model


def _inner(encoder: nn.Module, path: str) -> nn.Module:
    return encoder.get_submodule(_module_name(encoder, f"text_model.{path}"))


def _module_name(encoder: nn.Module, name: str) -> str:
    """transformers 5 dropped the level `text_model` from `CLIPTextModel`."""
    return name if hasattr(encoder, "text_model") else name.removeprefix("text_model.")
