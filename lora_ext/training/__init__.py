"""The loop, its events, and the job that runs it in the background."""

from lora_ext.training.check import check
from lora_ext.training.events import (
    Event,
    Finished,
    Notice,
    Pause,
    Paused,
    Preview,
    Saved,
    Stage,
    Step,
    Stop,
    Validated,
)
from lora_ext.training.job import Job, JobBoard, board
from lora_ext.training.loop import train
from lora_ext.training.snapshot import JobSnapshot

__all__ = [
    "Event",
    "Finished",
    "Job",
    "JobBoard",
    "JobSnapshot",
    "Notice",
    "Pause",
    "Paused",
    "Preview",
    "Saved",
    "Stage",
    "Step",
    "Stop",
    "Validated",
    "board",
    "check",
    "train",
]
