"""The loop, its events, and the job that runs it in the background."""

from lora_ext.training.board import JobBoard, board
from lora_ext.training.check import check
from lora_ext.training.estimate import Advice, Card, Estimate, estimate
from lora_ext.training.events import (
    Abort,
    Event,
    Finished,
    Notice,
    Pause,
    Paused,
    Preview,
    PreviewNow,
    Saved,
    SaveNow,
    Stage,
    Step,
    Stop,
    Validated,
    Wish,
)
from lora_ext.training.job import Job
from lora_ext.training.loop import train
from lora_ext.training.snapshot import JobSnapshot

__all__ = [
    "Abort",
    "Advice",
    "Card",
    "Estimate",
    "Event",
    "Finished",
    "Job",
    "JobBoard",
    "JobSnapshot",
    "Notice",
    "Pause",
    "Paused",
    "Preview",
    "PreviewNow",
    "SaveNow",
    "Saved",
    "Stage",
    "Step",
    "Stop",
    "Validated",
    "Wish",
    "board",
    "check",
    "estimate",
    "train",
]
