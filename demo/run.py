"""The demo: train a LoRA on a few pictures with the standalone host, then show the same seeds at three strengths."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from demo import random_base, subjects
from demo.pictures import CAPTIONS, write_pictures
from lora_ext.cli import main as command_line
from lora_ext.cli.outputs import write_png
from lora_ext.cli.progress import Progress
from lora_ext.config import CheckpointConfig, TrainConfig, read
from lora_ext.formats import NameTable, read_network
from lora_ext.hosts.standalone import StandaloneModel
from lora_ext.live import RenderRequest
from lora_ext.patching import Strengths
from lora_ext.presets import Shelf, keep
from lora_ext.training import train

HERE = Path(__file__).resolve().parent
SHIPPED = HERE / "base.safetensors"
OUT = HERE / "out"
STRENGTHS = (0.0, 0.7, 1.0)
SEEDS = (1, 2, 3)
PROMPT = CAPTIONS["chelsea.png"]
SIDE = 64  # px; what the shipped base paints
SHOWN = 128  # px of a picture on the sheet
ADDRESS = "127.0.0.1:7861"
PRESET = "Demo"
CHARACTER = "zorbit"
NOTE = "For the demo's model, which paints 64 by 64 pixels."
SETTINGS = {
    "resolution": SIDE,
    "batch_size": 4,
    "max_steps": 200,
    "rank": 16,
    "alpha": 16.0,
    "learning_rate": 1e-3,
    "text_encoder_lr": 1e-3,
    "schedule": "cosine",
    "save_every_steps": 40,
    "preview_every": 40,
    "preview_width": SIDE,
    "preview_height": SIDE,
}
"""What makes of 20 drawn pictures a LoRA that one can see, in 50 s of one processor core."""


def main(argv: list[str] | None = None) -> int:
    """Run the demo, or with `--ui` open the tab over the demo's model."""
    parser = argparse.ArgumentParser(prog="python -m demo.run", description="Train a LoRA and show what it does.")
    parser.add_argument("--ui", action="store_true", help=f"open the training tab at http://{ADDRESS}")
    parser.add_argument("--steps", type=int, default=120, help="training steps (default 120)")
    args = parser.parse_args(argv)
    OUT.mkdir(exist_ok=True)
    base = base_model()
    pictures = OUT / "pictures"
    write_pictures(pictures, size=4 * SIDE)
    if args.ui:
        character = prepare(OUT)
        print(f"a made-up character to learn: {character}\nfour photographs: {pictures}")
        print(f"step 2 of the tab has an own preset, “{PRESET}”, that suits this small model: two minutes of training")
        return command_line(["ui", "--checkpoint", str(base), "--output-dir", str(OUT)])
    model = StandaloneModel.load(CheckpointConfig(checkpoint=str(base), device="cpu"))
    lora = learn(model, pictures, args.steps)
    sheet = OUT / "sheet.png"
    write_png(sheet, compare(model, lora), f"{PROMPT} <lora:{lora.stem}:1>")
    print(f"the LoRA:  {lora}\nthe sheet: {sheet}")
    return 0


def prepare(folder: Path) -> Path:
    """Lay out what is tried in the tab: pictures that the small base can learn, and a preset of its size.

    The goals' own presets are for models made at 512 px and more. What is there already stays. Returns the pictures'
    folder.
    """
    from lora_ext.api.service import PRESETS  # noqa: PLC0415  the demo without `--ui` has not the packages of the tab

    character = folder / CHARACTER
    if not character.is_dir():
        for path in subjects.write(subjects.SUBJECTS[CHARACTER], character):
            with Image.open(path) as drawn:
                larger = drawn.resize((4 * SIDE, 4 * SIDE), Image.Resampling.BICUBIC)  # for people to see
            larger.save(path)
    shelf = Shelf(lambda: folder / PRESETS)
    if PRESET not in {listed.name for listed in shelf.listed()}:
        shelf.save(keep(PRESET, SETTINGS, note=NOTE, goal="character", family="sd1"))
    return character


def base_model() -> Path:
    """The small model that ships, or a shrunken random one made on the spot."""
    if SHIPPED.is_file():
        return SHIPPED
    path = OUT / "random_base.safetensors"
    if not path.is_file():
        print("no base model ships yet: making a shrunken one with random weights, so pictures will be abstract noise")
        random_base.make("sd1", path)
    return path


def learn(model: StandaloneModel, pictures: Path, steps: int) -> Path:
    """Train with a progress bar; returns the file written."""
    lora = OUT / "demo.safetensors"
    settings = {
        "images": str(pictures),
        "output": str(lora),
        "overwrite": True,
        "resolution": SIDE,
        "max_steps": steps,
        "rank": 16,
        "alpha": 16,
        "learning_rate": 1e-3,
        "batch_size": 2,
    }
    progress = Progress(sys.stderr)
    for event in train(model, read(TrainConfig, settings), output=lora):
        progress.show(event)
    progress.close()
    return lora


def compare(model: StandaloneModel, lora: Path) -> Image.Image:
    """A sheet: one row per seed, one column per strength."""
    network = read_network(lora, NameTable(model.table)).network
    columns: list[list[Image.Image]] = []
    for strength in STRENGTHS:
        model.patcher.apply({network: Strengths(strength, strength)})
        pictures = [model.render(RenderRequest(PROMPT, seed=seed, width=SIDE, height=SIDE)) for seed in SEEDS]
        columns.append([picture.resize((SHOWN, SHOWN), Image.Resampling.BICUBIC) for picture in pictures])
    model.patcher.clear()
    return sheet_of(columns)


def sheet_of(columns: list[list[Image.Image]]) -> Image.Image:
    """Labelled pictures side by side: a column per strength, a row per seed."""
    margin, gap = 64, 24
    size = (margin + len(STRENGTHS) * (SHOWN + 8), gap + len(SEEDS) * (SHOWN + 8))
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for x, (strength, column) in enumerate(zip(STRENGTHS, columns, strict=True)):
        left = margin + x * (SHOWN + 8)
        draw.text((left, 6), f"strength {strength:g}", fill="black", font=font)
        for y, picture in enumerate(column):
            sheet.paste(picture, (left, gap + y * (SHOWN + 8)))
    for y, seed in enumerate(SEEDS):
        draw.text((6, gap + y * (SHOWN + 8) + SHOWN // 2), f"seed {seed}", fill="black", font=font)
    return sheet


if __name__ == "__main__":
    sys.exit(main())
