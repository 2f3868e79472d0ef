"""Bytes <-> `Network`: files, key spellings, metadata, hashes."""

from lora_ext.formats.algorithm import algorithm_of
from lora_ext.formats.atomic import write_atomically
from lora_ext.formats.checkpoint import open_checkpoint
from lora_ext.formats.info import FileInfo, read_info
from lora_ext.formats.metadata import network_metadata
from lora_ext.formats.names import NameTable
from lora_ext.formats.read import ReadResult, read_network, read_networks
from lora_ext.formats.write import write_network

__all__ = [
    "FileInfo",
    "NameTable",
    "ReadResult",
    "algorithm_of",
    "network_metadata",
    "open_checkpoint",
    "read_info",
    "read_network",
    "read_networks",
    "write_atomically",
    "write_network",
]
