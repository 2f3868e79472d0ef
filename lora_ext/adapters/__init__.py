"""ΔW maths: one file per algorithm."""

from lora_ext.adapters.base import Adapter, Factors
from lora_ext.adapters.biases import split_bias
from lora_ext.adapters.create import ADAPTER_KINDS, AdapterKind, CreateOptions, create_adapter
from lora_ext.adapters.kinds import KINDS, adapter_for, kind_of
from lora_ext.adapters.lora import LoraAdapter
from lora_ext.adapters.network import Network

__all__ = [
    "ADAPTER_KINDS",
    "KINDS",
    "Adapter",
    "AdapterKind",
    "CreateOptions",
    "Factors",
    "LoraAdapter",
    "Network",
    "adapter_for",
    "create_adapter",
    "kind_of",
    "split_bias",
]
