"""The part of `benchmarks.webui_switch` that runs in the WebUI's own Python, inside its folder; see there.

Starts the WebUI without its server, changes prompts, and notes when the first UNet step is done.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

SETS = {
    "first LoRA": "<lora:lora0:0.7>",
    "new strength": "<lora:lora0:0.5>",
    "set of three": "<lora:lora0:0.7><lora:lora1:0.5><lora:lora2:0.9>",
    "repeat": "<lora:lora0:0.7><lora:lora1:0.5><lora:lora2:0.9>",
    "re-ordering": "<lora:lora2:0.9><lora:lora0:0.7><lora:lora1:0.5>",
    "three new strengths": "<lora:lora0:0.6><lora:lora1:0.8><lora:lora2:0.4>",
    "none again": "",
}
LORAS = SETS["set of three"]
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
STEPS = 7


class Host:
    """The started WebUI."""

    def __init__(self, size: int, clock: Callable[[], float]) -> None:
        from modules import initialize  # noqa: PLC0415 - the WebUI reads its command line while it is imported

        initialize.imports()
        initialize.initialize()
        from fastapi import FastAPI  # noqa: PLC0415
        from modules import extra_networks, processing, script_callbacks, sd_models, shared  # noqa: PLC0415

        extra_networks.initialize()
        extra_networks.register_default_extra_networks()
        script_callbacks.before_ui_callback()
        script_callbacks.app_started_callback(None, FastAPI())
        if type(extra_networks.extra_network_registry.get("lora")).__name__ != "AdapterTags":
            sys.exit("this project's extension did not start in the WebUI; why is in the log above")
        self.processing, self.shared, self.size, self.clock = processing, shared, size, clock
        self.ends: list[float] = []
        self.model = shared.sd_model or sd_models.load_model()
        self.model.model.diffusion_model.register_forward_hook(self._note)
        self.numbers = count()

    def _note(self, *_: object) -> None:
        self.ends.append(self.clock())

    def choose(self, engine: str) -> None:
        """`ours` or `builtin`."""
        self.shared.opts.data["lora_ext_builtin"] = engine == "builtin"

    def first_step(self, tags: str) -> float:
        """Seconds from a new prompt until its first UNet step is done."""
        start = self.clock()
        self._paint(tags, 1)
        return self.ends[0] - start

    def step(self, tags: str) -> float:
        """Median seconds between two sampling steps."""
        self._paint(tags, STEPS + 1)
        return statistics.median(b - a for a, b in zip(self.ends, self.ends[1:], strict=False))

    def _paint(self, tags: str, steps: int) -> None:
        self.ends.clear()
        p = self.processing.StableDiffusionProcessingTxt2Img(
            sd_model=self.model, prompt=f"a cat number {next(self.numbers)} {tags}", negative_prompt="", seed=1,
            steps=steps, width=self.size, height=self.size, cfg_scale=7, sampler_name="Euler",
            do_not_save_samples=True, do_not_save_grid=True,
        )  # fmt: skip
        with contextlib.closing(p):
            done = self.processing.process_images(p)
        if "LoRA " in (done.comments or "") or "not found" in (done.comments or ""):
            raise RuntimeError(done.comments)


def measure(host: Host, repeats: int) -> dict[str, Any]:
    """Seconds over a bare step by engine and change, seconds of a step, bytes of memory; engines take turns."""
    times: dict[str, dict[str, list[float]]] = {"ours": {}, "builtin": {}}
    steps: dict[str, list[float]] = {"bare": [], "ours": [], "builtin": []}
    memory: dict[str, int] = {}
    for turn in range(repeats + 1):
        for engine in ("ours", "builtin"):
            host.choose(engine)
            host.first_step("")
            before = anonymous_bytes()
            bare = statistics.median(host.first_step("") for _ in range(3))
            if turn:
                times[engine].setdefault("bare step", []).append(bare)
            for name, tags in SETS.items():
                seconds = host.first_step(tags) - bare
                if turn or engine not in memory:
                    times[engine].setdefault(name if turn else f"{name}, cold", []).append(seconds)
                if name == "re-ordering" and engine not in memory:
                    memory[engine] = anonymous_bytes() - before
            if turn:
                steps["bare"].append(host.step(""))
                steps[engine].append(host.step(LORAS))
                host.first_step("")
    return {
        "times": {e: {n: statistics.median(t) for n, t in found.items()} for e, found in times.items()},
        "steps": {name: statistics.median(found) for name, found in steps.items()},
        "memory": memory,
        "restored": not any_lora(host),
    }


def any_lora(host: Host) -> bool:
    """Whether a weight of the model differs from its checkpoint file after all of it."""
    import torch  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    stored = load_file(host.model.sd_checkpoint_info.filename)
    live = {k.replace(".wrapped.", "."): t for k, t in host.model.state_dict().items()}
    names = [k for k in stored if k.startswith(("model.diffusion_model.", "cond_stage_model.")) and k in live]
    assert len(names) > 500, "these are not the checkpoint's names"
    return not all(torch.equal(live[k], stored[k].to(live[k].dtype)) for k in names)


def anonymous_bytes() -> int:
    """Memory of this process that no file backs; 0 where the system does not tell."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))
    except (OSError, StopIteration):
        return 0


def main(write: Callable[[str], object]) -> None:
    """Options come by the environment, because the command line is the WebUI's."""
    import torch  # noqa: PLC0415

    torch.set_num_threads(int(os.environ["SWITCH_THREADS"]) or torch.get_num_threads())
    host = Host(int(os.environ["SWITCH_SIZE"]), CLOCKS[os.environ["SWITCH_CLOCK"]])
    host.step("")
    found = measure(host, int(os.environ["SWITCH_REPEATS"]))
    found["machine"] = f"{torch.get_num_threads()} threads, Python {sys.version.split()[0]}, torch {torch.__version__}"
    write(json.dumps(found))


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    main(Path(os.environ["SWITCH_RESULT"]).write_text)
