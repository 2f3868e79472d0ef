"""How long a folder of many LoRA files takes to list: the first time, again, and after a restart.

    python -m benchmarks.listing [--files 10000] [--folder DIR] [--json]

The files have headers of real size (a rank-32 LoRA of SD 1.5, its tag counts with it), a sidecar each and a preview
every second one; their tensors are holes that take no disk. Before the cold look the system is told to forget the
files' contents (Linux). `limit` is the time of asking the system for every file's size and time, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.report import Row, show
from lora_ext.hosts.card import Cards
from lora_ext.hosts.file_memory import FileMemory
from lora_ext.hosts.library import Library

BLOCKS = (*(f"down_blocks_{i}_attentions_{j}" for i in range(3) for j in range(2)), "mid_block_attentions_0",
          *(f"up_blocks_{i}_attentions_{j}" for i in range(1, 4) for j in range(3)))  # fmt: skip
INSIDE = (*(f"attn{a}_to_{t}" for a in (1, 2) for t in ("q", "k", "v", "out_0")), "ff_net_0_proj", "ff_net_2")
TARGETS = ("proj_in", "proj_out", *(f"transformer_blocks_0_{name}" for name in INSIDE))
TEXT = ("self_attn_k_proj", "self_attn_out_proj", "self_attn_q_proj", "self_attn_v_proj", "mlp_fc1", "mlp_fc2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--folder", help="where to make the files; a temporary folder when left out")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="lora-ext-listing-", dir=args.folder))
    try:
        made = make(place / "loras", args.files)
        rows, notes = measure(place, args.files)
    finally:
        shutil.rmtree(place)
    notes.append(f"headers of {made / args.files / 1024:.0f} KiB each, {made / 2**20:.0f} MiB in all")
    show(rows, torch.device("cpu"), as_json=args.json, notes=notes)


def measure(place: Path, count: int) -> tuple[list[Row], list[str]]:
    """Time each look; fails when a look sees fewer files than there are."""
    loras, kept = place / "loras", place / "known.sqlite"
    forgotten = forget(loras)
    system, _ = timed(lambda: [os.stat(p) for p in every_file(loras)])
    forget(loras)
    library = Library([loras], FileMemory(kept))
    cards = Cards(library)
    worked = time.process_time()
    cold, _ = timed(library.refresh)
    worked = time.process_time() - worked
    cold_cards, shown = timed(cards.all)
    assert len(shown) == count, f"{len(shown)} of {count} listed"
    assert all(card.version == "SD1" for card in shown), "families were not recognised"
    again = time.process_time()
    warm, _ = timed(library.refresh)
    again = time.process_time() - again
    warm_cards, _ = timed(cards.all)
    (loras / "sub0" / "new.safetensors").write_bytes((loras / "sub0" / "lora 00000.safetensors").read_bytes()[:1])
    one, _ = timed(library.refresh)
    restart, known = timed(lambda: Cards(Library([loras], FileMemory(kept))).all())
    assert len(known) == count + 1
    rows = [
        Row(f"{count} files, cold: listed, headers read, remembered", cold, None, "", system, "s"),
        Row("  and their cards, notes read", cold + cold_cards, None, "", system, "s"),
        Row("warm: listed again", warm, None, "", system, "s"),
        Row("  and their cards", warm + warm_cards, None, "", system, "s"),
        Row("one file more, listed", one, None, "", system, "s"),
        Row("after a restart: listed and cards", restart, None, "", system, "s"),
    ]
    notes = ["cold: the system had forgotten the contents" if forgotten else "cold: contents in the page cache"]
    notes.append(f"processor time of this process: cold {worked:.2f} s, warm {again:.2f} s")
    return rows, notes


def make(folder: Path, count: int) -> int:
    """Write the files; returns the bytes of all headers."""
    tensors, size = layout()
    chance = random.Random(0)
    total = 0
    for n in range(count):
        here = folder / f"sub{n % 50}"
        here.mkdir(parents=True, exist_ok=True)
        path = here / f"lora {n:05}.safetensors"
        header = f'{{"__metadata__":{json.dumps(metadata(n, chance), separators=(",", ":"))},{tensors}'.encode()
        with path.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + size)
        path.with_suffix(".json").write_text(json.dumps({"activation text": f"word{n}", "preferred weight": 0.8}))
        if n % 2:
            path.with_suffix(".preview.png").write_bytes(b"\x89PNG")
        total += len(header)
    return total


def layout() -> tuple[str, int]:
    """The header's text after the metadata for a rank-32 LoRA of SD 1.5, 264 layers, and the bytes of its tensors."""
    layers = [f"lora_unet_{block}_{target}" for block in BLOCKS for target in TARGETS]
    layers += [f"lora_te_text_model_encoder_layers_{n}_{part}" for n in range(12) for part in TEXT]
    entries: dict[str, object] = {}
    at = 0
    for layer in layers:
        width = 768 if "attn2_to_k" in layer or "attn2_to_v" in layer or "_te_" in layer else 320
        for name, shape in ((".alpha", []), (".lora_down.weight", [32, width]), (".lora_up.weight", [320, 32])):
            size = 2 * (shape[0] * shape[1] if shape else 1)
            entries[layer + name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + size]}
            at += size
    return json.dumps(entries, separators=(",", ":"))[1:], at


def metadata(n: int, chance: random.Random) -> dict[str, str]:
    """What kohya's trainer writes, with the tag counts of 300 tags."""
    tags = {f"10_set{n}": {f"tag {chance.randrange(100_000)}": chance.randrange(1, 60) for _ in range(300)}}
    return {
        "ss_output_name": f"alias {n}", "ss_base_model_version": "sd_v1", "ss_v2": "False", "ss_network_dim": "32",
        "ss_network_module": "networks.lora", "ss_network_alpha": "16", "ss_tag_frequency": json.dumps(tags),
        "ss_sd_model_name": "v1-5-pruned.safetensors", "sshs_model_hash": f"{n:064x}",
    }  # fmt: skip


def forget(folder: Path) -> bool:
    """Drop the files' contents from the page cache, where the system can."""
    if not hasattr(os, "posix_fadvise"):
        return False
    os.sync()  # what is not yet written cannot be forgotten
    for path in every_file(folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
    return True


def every_file(folder: Path) -> list[str]:
    return [os.path.join(place, name) for place, _, names in os.walk(folder) for name in names]


def timed(work: Callable[[], object]) -> tuple[float, object]:
    """Seconds, and what came of it."""
    start = time.perf_counter()
    outcome = work()
    return time.perf_counter() - start, outcome


if __name__ == "__main__":
    main()
