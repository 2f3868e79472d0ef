"""All settings of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from lora_ext.config.data import DataConfig
from lora_ext.config.loss import LossConfig
from lora_ext.config.memory import MemoryConfig
from lora_ext.config.network import NetworkConfig
from lora_ext.config.optim import OptimConfig
from lora_ext.config.preview import PreviewConfig
from lora_ext.config.save import SaveConfig
from lora_ext.config.text import TextConfig


@dataclass(frozen=True)
class TrainConfig:
    """A whole run."""

    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    text: TextConfig = field(default_factory=TextConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    save: SaveConfig = field(default_factory=SaveConfig)
    preview: PreviewConfig = field(default_factory=PreviewConfig)
