"""Pictures described by a model: taggers that run here, and the run that turns what any of them says into edits."""

from lora_ext.data.tagging.run import Mode, Wish, describe, ready
from lora_ext.data.tagging.wd import WdTagger, wd_taggers

__all__ = ["Mode", "WdTagger", "Wish", "describe", "ready", "wd_taggers"]
