"""What describes pictures, whoever brings it, and how the files it needs are fetched when a user asks for them."""

from lora_ext.captioner.fetching import fetch, reach
from lora_ext.captioner.words import Captioner, Captioners, Describe, Tag, Weights

__all__ = ["Captioner", "Captioners", "Describe", "Tag", "Weights", "fetch", "reach"]
