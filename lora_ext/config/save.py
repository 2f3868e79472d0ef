"""What is written, and when."""

from __future__ import annotations

from dataclasses import dataclass

from lora_ext.config.declare import setting


@dataclass(frozen=True)
class SaveConfig:
    """What is written, and when."""

    output: str = setting(
        "",
        "Name",
        "Name of the LoRA as you will type it in <lora:name:0.7>. The command line also takes a .safetensors path.",
        basic=True,
        needed=True,
        of_run=True,
    )
    overwrite: bool = setting(
        False,
        "Replace an existing file",
        "Otherwise a file of that name is an error.",
        of_run=True,
    )
    save_every_steps: int = setting(0, "Save every N steps", "0: only at the end.", unit="steps", minimum=0)
    save_every_epochs: int = setting(0, "Save every N epochs", "0: only at the end.", unit="epochs", minimum=0)
    state_every: int = setting(
        0,
        "Save the state every N steps",
        "All that is needed to go on after a crash or to train longer, beside the LoRA. 0: never.",
        unit="steps",
        minimum=0,
    )
    resume: bool = setting(
        False,
        "Resume",
        "Go on from the saved state of a run of this name. Pictures, checkpoint and settings must be the same; epochs "
        "and steps may be more.",
        of_run=True,
    )
    log: bool = setting(
        True,
        "Write a log",
        "Beside the LoRA: NAME.log.csv with the losses, for a table or chart, and NAME.config.toml, which repeats the "
        "run from the command line.",
        expert=True,
    )
    tensorboard: bool = setting(
        False,
        "TensorBoard",
        "Writes losses and previews to NAME.tensorboard beside the LoRA as well; needs the package tensorboard.",
        expert=True,
    )
    save_precision: str = setting(
        "fp16", "File precision", "Precision of the numbers in the file.", choices=("fp16", "bf16", "fp32")
    )
