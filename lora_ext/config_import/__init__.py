"""Settings files of other trainers: read as ours, every key accounted for; and ours written for sd-scripts."""

from lora_ext.config_import.export import Export, to_sd_scripts
from lora_ext.config_import.outcome import Entry, Import
from lora_ext.config_import.own_file import flattened
from lora_ext.config_import.recognise import EXTENSIONS, parse_file, read_foreign

__all__ = ["EXTENSIONS", "Entry", "Export", "Import", "flattened", "parse_file", "read_foreign", "to_sd_scripts"]
