"""What a file is that is not a checkpoint of ours: told by its tensors' names, so that the message can say it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

UNET = "model.diffusion_model."


def looks_like(tensors: Mapping[str, Tensor]) -> str | None:
    """What the tensors look like, as a noun phrase, or None when nothing known fits. An ldm UNet is not looked into."""
    names = list(tensors)
    for sentence, marks in _MARKS:
        if any(mark in name for name in names for mark in marks):
            return sentence
    if _starts(names, ("down_blocks.", "unet.down_blocks.")):
        return "a UNet in the diffusers layout, without VAE and text encoder"
    if _starts(names, ("text_model.",)):
        return "a text encoder alone"
    if _starts(names, ("encoder.down.", "decoder.up.", "encoder.down_blocks.", "first_stage_model.")) and not _starts(
        names, (UNET,)
    ):
        return "a VAE alone"
    return None


def _starts(names: Iterable[str], prefixes: tuple[str, ...]) -> bool:
    return any(name.startswith(prefixes) for name in names)


_MARKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    # order matters: the first that fits is told
    (
        "a LoRA (or another adapter), not a checkpoint",
        (
            ".lora_down.",
            ".lora_up.",
            ".lora_A.",
            ".lora_B.",
            "lora_unet_",
            "lora_te",
            ".hada_w1",
            ".lokr_w",
            "oft_blocks",
        ),
    ),
    ("a textual inversion embedding", ("emb_params", "string_to_param", "clip_l.", "clip_g.")),
    ("Flux", ("double_blocks.",)),
    ("SD3", ("joint_blocks.", f"{UNET}x_embedder.")),
    ("Stable Cascade", ("down_blocks.0.0.channelwise", f"{UNET}clip_txt_mapper")),
    ("a PixArt- or DiT-like transformer", ("adaln_single.", f"{UNET}t_block.")),
    ("a ControlNet", ("control_model.", "zero_convs.", "controlnet_cond_embedding.", "input_hint_block.")),
    ("the SDXL refiner", ("conditioner.embedders.0.model.ln_final.",)),
    ("an SD 2.x depth model", ("depth_model.",)),
    ("an SD 2.x unCLIP model", ("embedder.model.ln_final.", "noise_augmentor.")),
    ("AltDiffusion", ("cond_stage_model.roberta.",)),
    ("a video model", (".time_stack.", ".temopral_conv.", ".motion_modules.")),
)
