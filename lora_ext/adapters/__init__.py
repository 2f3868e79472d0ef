"""ΔW maths: one file per algorithm."""

from lora_ext.adapters.base import Adapter, Factors
from lora_ext.adapters.kinds import KINDS, adapter_for, kind_of
from lora_ext.adapters.lora import LoraAdapter
from lora_ext.adapters.network import Network

__all__ = ["KINDS", "Adapter", "Factors", "LoraAdapter", "Network", "adapter_for", "kind_of"]
