"""LoRA files for the tests of listing and cards: what people have, what strangers send, what is broken."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

KEY = "lora_unet_mid_block_attentions_0_proj_in"
SCRIPT = "<img src=x onerror=document.title='owned'>"
NASTY = f"{SCRIPT}'\"`&amp;"
"""A name that would run as script, if anybody took it for markup. Windows could not hold it."""
RIGHT_TO_LEFT = "שלום \u202etxt.lora"
WIDE = {"sd1": 768, "sd2": 1024, "sdxl": 2048}

TRAINED = {
    "ss_network_module": "networks.lora", "ss_network_dim": "2", "ss_network_alpha": "2", "ss_learning_rate": "0.0001",
    "ss_sd_model_name": "sd1.safetensors", "ss_steps": "1200", "ss_num_epochs": "10", "ss_optimizer":
    "bitsandbytes.optim.adamw.AdamW8bit(weight_decay=0.1)", "ss_training_started_at": "1700000000",
    "ss_dataset_dirs": json.dumps({"10_cat": {"n_repeats": 10, "img_count": 12}}),
    "ss_tag_frequency": json.dumps({"10_cat": {"mio cat": 120, "sitting": 40, "red hat (big)": 12, SCRIPT: 3,
                                    "a": 2, "b": 2}}),
}  # fmt: skip


def put(path: Path, family: str = "", *, seed: int = 0, size: int = 64, **metadata: str) -> Path:
    """A small LoRA of one layer; `family` also gives it a cross-attention layer as wide as that family's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    g = torch.Generator().manual_seed(seed)
    made = {
        f"{KEY}.lora_down.weight": torch.randn(2, size, 1, 1, generator=g),
        f"{KEY}.lora_up.weight": torch.randn(size, 2, 1, 1, generator=g),
        f"{KEY}.alpha": torch.tensor(2.0),
    }
    if family:
        layer = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
        made |= {f"{layer}.lora_down.weight": torch.randn(2, WIDE[family], generator=g)}
        made |= {f"{layer}.lora_up.weight": torch.randn(320, 2, generator=g), f"{layer}.alpha": torch.tensor(2.0)}
    save_file(made, path, metadata or None)
    return path


def notes(path: Path, **content: object) -> Path:
    """The sidecar of a LoRA file."""
    place = path.with_suffix(".json")
    place.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf8")
    return place


def preview(path: Path, colour: str) -> Path:
    """A picture for its card."""
    place = path.with_suffix(".preview.png")
    Image.new("RGB", (96, 128), colour).save(place)
    return place


def fill(folder: Path) -> None:
    """A folder as somebody might have it, for an SD 1.x checkpoint."""
    cat = put(folder / "animals" / "cat.safetensors", ss_output_name="mio", **TRAINED)
    notes(cat, description="A cat in a red hat.", **{"activation text": "mio cat", "preferred weight": 0.8,
          "negative text": "dog", "notes": "from a friend",
          "civitai": {"id": 12345678901234567890, "x": [None]}})  # fmt: skip
    preview(cat, "#c46a2b")
    put(folder / "animals" / "dog.safetensors", seed=1)
    put(folder / "old" / "cat.safetensors", seed=2)
    preview(put(folder / "styles" / "ink.safetensors", "sd1", seed=3), "#335577")
    put(folder / "styles" / "wide.safetensors", "sdxl", seed=4)
    put(folder / "renamed here.safetensors", seed=5)
    put(folder / f"{RIGHT_TO_LEFT}.safetensors", seed=6)
    (folder / "broken.safetensors").write_bytes(b"<html>not found</html>")
    if os.name != "nt":
        bad = put(folder / f"{NASTY.replace('/', '')}.safetensors", seed=7, ss_output_name=SCRIPT, **TRAINED)
        notes(bad, description=SCRIPT, notes=SCRIPT, **{"activation text": NASTY, "negative text": SCRIPT})
