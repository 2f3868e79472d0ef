"""A run in a process of its own, which the test kills: prints every step, saves its state after each."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import torch  # noqa: E402

torch.set_num_threads(int(sys.argv[2]))  # as the test's own process: sums depend on it

from test_resume_settings import LONG  # noqa: E402
from training_runs import config, model  # noqa: E402

from lora_ext.training import Step, train  # noqa: E402

folder = Path(sys.argv[1])
for event in train(model(), config(folder, **LONG, state_every=1), output=folder / "out" / "x.safetensors"):
    if isinstance(event, Step):
        print(event.step, flush=True)
