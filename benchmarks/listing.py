"""How long a folder of many LoRA files takes to list: the first time, again, and after a restart.

    python -m benchmarks.listing [--files 10000] [--folder DIR] [--json]

The files have headers of real size (a rank-32 LoRA of SD 1.5, its tag counts with it), a sidecar each and a preview
every second one; their tensors are holes that take no disk. Before the cold look the system is told to forget the
files' contents (Linux). `limit` is the time of asking the system for every file's size and time, and nothing else.
The peer does a part of the work: it reads and parses each header whole, as A1111's builtin does. Processor times are
told besides, as other programs on the machine do not count in them.
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

PEER = "json.loads of each header, as A1111's builtin"
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
    system = timed(lambda: [os.stat(p) for p in every_file(loras)])
    forget(loras)
    peer = timed(lambda: [header_whole(path) for path in every_file(loras) if path.endswith(".safetensors")])
    forget(loras)
    library = Library([loras], FileMemory(kept))
    cards = Cards(library)
    cold = timed(library.refresh)
    cold_cards = timed(cards.all)
    shown = cards.all()
    assert len(shown) == count, f"{len(shown)} of {count} listed"
    assert all(card.version == "SD1" for card in shown), "families were not recognised"
    warm = timed(library.refresh)
    warm_cards = timed(cards.all)
    (loras / "sub0" / "new.safetensors").write_bytes((loras / "sub0" / "lora 00000.safetensors").read_bytes()[:1])
    one = timed(library.refresh)
    one_cards = timed(cards.all)
    assert len(cards.all()) == count + 1
    restart = timed(lambda: Cards(Library([loras], FileMemory(kept))).all())
    rows = [
        Row(f"{count} files, cold: listed, headers read, remembered", cold[0], peer[0], PEER, system[0], "s"),
        Row("  and their cards, notes read", cold[0] + cold_cards[0], None, "", system[0], "s"),
        Row("warm: listed again", warm[0], None, "", system[0], "s"),
        Row("  and their cards", warm[0] + warm_cards[0], None, "", system[0], "s"),
        Row("one file more: listed, and cards", one[0] + one_cards[0], None, "", system[0], "s"),
        Row("after a restart: listed and cards", restart[0], None, "", system[0], "s"),
    ]
    told = {"cold": cold, "its cards": cold_cards, "warm": warm, "its cards again": warm_cards, "one more": one,
            "restart": restart, "the peer's part": peer}  # fmt: skip
    notes = ["cold: the system had forgotten the contents" if forgotten else "cold: contents in the page cache"]
    notes.append("processor time, s: " + ", ".join(f"{name} {worked:.2f}" for name, (_, worked) in told.items()))
    return rows, notes


def header_whole(path: str) -> object:
    """The straight way: what A1111's builtin does for each file, less what it does besides."""
    with open(path, "rb") as file:
        return json.loads(file.read(int.from_bytes(file.read(8), "little")))


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


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of this process's processor time."""
    start, worked = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - worked


if __name__ == "__main__":
    main()
