"""What is trained on: pictures, captions, buckets, caches and the order of an epoch."""

from lora_ext.data.batches import Batches, Sample
from lora_ext.data.buckets import Fit, bucket_sizes, fit
from lora_ext.data.first_captions import first_captions
from lora_ext.data.inspection import Inspection, inspect
from lora_ext.data.latents import LatentCache
from lora_ext.data.picture import Picture, load_mask, load_picture
from lora_ext.data.report import DataReport, Skipped
from lora_ext.data.scan import scan
from lora_ext.data.sets import data_sets
from lora_ext.data.store import Store, fingerprint
from lora_ext.data.text import TextCache

__all__ = [
    "Batches",
    "DataReport",
    "Fit",
    "Inspection",
    "LatentCache",
    "Picture",
    "Sample",
    "Skipped",
    "Store",
    "TextCache",
    "bucket_sizes",
    "data_sets",
    "fingerprint",
    "first_captions",
    "fit",
    "inspect",
    "load_mask",
    "load_picture",
    "scan",
]
