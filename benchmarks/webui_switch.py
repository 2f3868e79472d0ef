"""Prompt changed -> first UNet step done, in a real A1111 WebUI: ours and its builtin loader, in one process.

`WEBUI_DIR=… python -m benchmarks.webui_switch [--json] [--threads 1] …` with an environment that has this project's
needs; the WebUI runs in its own (WEBUI_PYTHON, or the venv in its folder). No server and no routes: the WebUI is
imported, given a random checkpoint of SD1.5's shapes in float32 (4 GB, made for the run) and three kohya LoRAs of rank
32 over 264 layers, and asked for pictures. The two loaders take turns; every prompt is new, so that the text is encoded
anew each time; what is shown is the time over that of a prompt without LoRAs. Medians; the first turn is shown apart as
cold: it reads the files and, with the builtin, fetches the memory for its copies.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.apply import SD15
from benchmarks.report import Row, show
from demo import checkpoint_keys as keys
from demo.random_base import Plan, make
from lora_ext.adapters import LoraAdapter, Network
from lora_ext.formats import NameTable, write_network
from lora_ext.model import default_targets, layer_table

ROOT = Path(__file__).resolve().parent.parent
RANK = 32
FLAGS = (
    "--skip-torch-cuda-test --use-cpu all --no-half --precision full --no-download-sd-model --skip-version-check "
    "--skip-python-version-check --skip-prepare-environment --no-hashing"
)
PEER = "A1111 1.10.1's builtin"
SHIPPED = ("lora_ext", "scripts", "javascript", "localizations")


def main() -> None:
    """Make the model, run the WebUI's part, print the rows."""
    options = _options()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = _run(options, Path(folder))
    show(_rows(found), torch.device("cpu"), as_json=options.json, notes=_notes(found))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--width", type=int, default=320, help="channels of the UNet's first level; SD1.5 has 320")
    parser.add_argument("--size", type=int, default=128, help="pixels per side of the pictures")
    parser.add_argument("--repeats", type=int, default=2, help="turns that count; medians are shown")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: processor time, for busy machines"
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 1 is the fairest on a busy machine")
    parser.add_argument("--folder", help="where to make the 4 GB checkpoint; removed afterwards")
    options = parser.parse_args()
    if not os.environ.get("WEBUI_DIR"):
        parser.error("set WEBUI_DIR to a stable-diffusion-webui 1.10.1 folder that starts")
    return options


def _run(options: argparse.Namespace, data: Path) -> dict[str, Any]:
    webui = Path(os.environ["WEBUI_DIR"]).resolve()
    inside = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    python = os.environ.get("WEBUI_PYTHON") or str(webui / "venv" / inside)
    _lay_out(data, options.width)
    result = data / "result.json"
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "COMMANDLINE_ARGS": "",
        "SWITCH_THREADS": str(options.threads),
        "SWITCH_CLOCK": options.clock,
        "SWITCH_SIZE": str(options.size),
        "SWITCH_REPEATS": str(options.repeats),
        "SWITCH_RESULT": str(result),
    }
    command = [python, str(ROOT / "benchmarks" / "webui_inside.py"), "--data-dir", str(data), *FLAGS.split()]
    done = subprocess.run(command, cwd=webui, env=environment, stdout=sys.stderr, check=False)
    if done.returncode or not result.exists():
        sys.exit(f"the WebUI ended with {done.returncode} before it had a result; its log is above")
    return dict(json.loads(result.read_text()))


def _lay_out(data: Path, width: int) -> None:
    """A data folder as a user has it: checkpoint, LoRAs, our extension, settings."""
    models, loras, extension = (data / p for p in ("models/Stable-diffusion", "models/Lora", "extensions/lora-ext"))
    for folder in (models, loras, extension):
        folder.mkdir(parents=True)
    for part in SHIPPED:
        (extension / part).symlink_to(ROOT / part, target_is_directory=True)
    checkpoint = make("sd1", models / "base.safetensors", dtype=torch.float32, made=_plan(width))
    os.utime(checkpoint, (0, 0))
    for seed in range(3):
        _write_lora(loras / f"lora{seed}.safetensors", width, seed)
    settings = {"sd_model_checkpoint": checkpoint.name, "samples_save": False, "lora_add_hashes_to_infotext": False}
    (data / "config.json").write_text(json.dumps(settings | {"show_progress_type": "Approx cheap"}), encoding="utf8")


def _plan(width: int) -> Plan:
    unet = keys.UNetSize(4, width, (1, 2, 4, 4), 2, (1, 1, 1, 0), 768, linear=False, vector=0)
    return Plan(unet, keys.TextSize(width=768, layers=12, heads=12), None, ("cond_stage_model.transformer.",))


def _write_lora(path: Path, width: int, seed: int) -> None:
    unet = dataclasses.replace(SD15.unet, channels=tuple(width * m for m in (1, 2, 4, 4)))
    table = layer_table(dataclasses.replace(SD15, unet=unet))
    g = torch.Generator().manual_seed(seed)
    network = Network(path.stem, {})
    for layer in default_targets(table, conv=False):
        adapter = LoraAdapter.create(layer.shape, RANK, RANK / 2, g).requires_grad_(False)
        adapter.up.normal_(0, 0.005, generator=g)
        network.adapters[layer.name] = adapter
    write_network(path, network, NameTable(table), {"ss_base_model_version": "sd_v1"}, torch.float16)


def _rows(found: dict[str, Any]) -> list[Row]:
    ours, builtin = found["times"]["ours"], found["times"]["builtin"]
    rows = [Row(f"{name}", ours[name], builtin[name], PEER, None, "s") for name in ours]
    steps = found["steps"]
    rows.append(Row("a sampling step with three merged", steps["ours"], steps["builtin"], PEER, steps["bare"], "s"))
    if any(found["memory"].values()):
        mine, theirs = (found["memory"][engine] / 1e6 for engine in ("ours", "builtin"))
        rows.append(Row("extra memory, three LoRAs", mine, theirs, PEER, None, "MB"))
    return rows


def _notes(found: dict[str, Any]) -> list[str]:
    steps = found["steps"]
    return [
        f"in the WebUI: {found['machine']}",
        f"a step with three merged LoRAs takes {steps['ours'] / steps['bare']:.3f} of a bare one "
        f"({steps['builtin'] / steps['bare']:.3f} with the builtin)",
        f"at the end every weight {'is bitwise' if found['restored'] else 'IS NOT'} the checkpoint's",
    ]


if __name__ == "__main__":
    main()
