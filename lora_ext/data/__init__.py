"""What is trained on: pictures, captions, buckets, caches and the order of an epoch."""

from lora_ext.data.batches import Batches, Sample
from lora_ext.data.buckets import Fit, bucket_sizes, fit
from lora_ext.data.latents import LatentCache
from lora_ext.data.picture import Picture, load_picture
from lora_ext.data.scan import DataReport, Skipped, scan
from lora_ext.data.text import TextCache

__all__ = [
    "Batches",
    "DataReport",
    "Fit",
    "LatentCache",
    "Picture",
    "Sample",
    "Skipped",
    "TextCache",
    "bucket_sizes",
    "fit",
    "load_picture",
    "scan",
]
