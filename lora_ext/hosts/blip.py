"""BLIP through transformers: a sentence about a picture. Its files lie in a folder and are never fetched unasked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from transformers import BlipForConditionalGeneration, BlipProcessor

from lora_ext.captioner import Describe, Weights, fetch
from lora_ext.errors import BadInput, Problem

NAME, OWNER = "blip-image-captioning-base", "Salesforce"

FILES = (
    "config.json",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "model.safetensors",
)

NEEDED = ("config.json", "preprocessor_config.json", "vocab.txt", "model.safetensors")
"""Without these it cannot work; the others are the same told again."""

LONGEST = 60
"""Tokens of a sentence."""


@dataclass(frozen=True)
class Blip:
    """One BLIP in a folder of its own, named like the model."""

    folder: Path
    name: str = "blip-transformers"
    label: str = "BLIP (transformers)"
    kind: Literal["sentence"] = "sentence"

    def weights(self) -> Weights:
        present = all((self.folder / name).is_file() for name in NEEDED)
        return Weights(present, str(self.folder), f"{_site()}/{OWNER}/{NAME}", 990)

    def fetch(self, progress: Callable[[int, int], None], stop: Callable[[], bool]) -> None:
        source = f"{_site()}/{OWNER}/{NAME}"
        fix = f"Or put {', '.join(FILES)} from {source} into {self.folder} by hand."
        fetch({f"{source}/resolve/main/{name}": self.folder / name for name in FILES}, progress, stop, fix)

    @contextmanager
    def opened(self, stop: Callable[[], bool]) -> Iterator[Describe]:
        try:
            processor = BlipProcessor.from_pretrained(str(self.folder), local_files_only=True)
            model = BlipForConditionalGeneration.from_pretrained(
                str(self.folder), local_files_only=True, use_safetensors=True
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as e:
            what = f"{self.folder.name}: the model cannot be read ({' '.join(str(e).split())[:200]})"
            raise BadInput(Problem("captioner", what, fix="Fetch its files again.")) from e
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = model.to(device).eval()

        def say(image: Image.Image) -> str:
            entry = processor(images=image, return_tensors="pt").to(device)
            with torch.no_grad():
                tokens = model.generate(**entry, max_new_tokens=LONGEST)
            return str(processor.decode(tokens[0], skip_special_tokens=True)).strip()

        try:
            yield say
        finally:
            model.to("cpu")
            if device.type == "cuda":
                torch.cuda.empty_cache()


def _site() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
