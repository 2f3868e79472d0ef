"""Every setting, declared once.

A setting is a field of a frozen dataclass; its metadata carries label, help, unit, range and choices. Widgets, flags,
the file format, the saved metadata and the docs are made from it. Names are unique over all sections, so a setting can
be given flat: `--set rank=16`, `{"rank": 16}`. One file per section.
"""

from lora_ext.config.data import DataConfig, DataSetConfig
from lora_ext.config.declare import MOST_SEED, Setting, Value, setting
from lora_ext.config.host import CheckpointConfig, GenerateConfig, PictureConfig, ServeConfig, UiConfig
from lora_ext.config.loss import LossConfig
from lora_ext.config.memory import MemoryConfig
from lora_ext.config.network import NetworkConfig
from lora_ext.config.optim import OptimConfig
from lora_ext.config.preview import PreviewConfig
from lora_ext.config.preview_lines import preview_wishes
from lora_ext.config.reading import Config, flat, number, read, settings
from lora_ext.config.relevance import FACTS, When, relevant
from lora_ext.config.save import SaveConfig
from lora_ext.config.sheet import CompareConfig, SheetConfig, SheetFileConfig
from lora_ext.config.text import TextConfig
from lora_ext.config.train import TrainConfig

__all__ = [
    "FACTS",
    "MOST_SEED",
    "CheckpointConfig",
    "CompareConfig",
    "Config",
    "DataConfig",
    "DataSetConfig",
    "GenerateConfig",
    "LossConfig",
    "MemoryConfig",
    "NetworkConfig",
    "OptimConfig",
    "PictureConfig",
    "PreviewConfig",
    "SaveConfig",
    "ServeConfig",
    "Setting",
    "SheetConfig",
    "SheetFileConfig",
    "TextConfig",
    "TrainConfig",
    "UiConfig",
    "Value",
    "When",
    "flat",
    "number",
    "preview_wishes",
    "read",
    "relevant",
    "setting",
    "settings",
]
