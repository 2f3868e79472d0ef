"""The pictures of the demo and the tests: scikit-image's, which may be used by anyone.

`astronaut` and `rocket` are NASA's (public domain), `chelsea` and `coffee` are CC0.
`python -m demo.pictures FOLDER` writes them.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from PIL import Image

CAPTIONS = {
    "astronaut.png": "photo of a woman in an orange space suit, smiling, flag in the background",
    "chelsea.png": "photo of a ginger tabby cat, close-up, looking to the side",
    "coffee.png": "photo of a red cup of coffee with a spoon on a red saucer, wooden table",
    "rocket.jpg": "photo of a rocket standing on its launch pad at dusk, bright lights below",
}


def write_pictures(folder: Path, size: int | None = None) -> list[Path]:
    """Write the four pictures as PNG with captions into `folder` and return their paths.

    `size` shrinks them to that many pixels on the longer side. Raises `FileNotFoundError` without scikit-image.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [_write(source, caption, folder, size) for source, caption in _sources()]


def _write(source: Path, caption: str, folder: Path, size: int | None) -> Path:
    target = folder / f"{source.stem}.png"
    with Image.open(source) as image:
        picture = image.convert("RGB")
    if size is not None:
        picture.thumbnail((size, size), Image.Resampling.LANCZOS)
    picture.save(target)
    target.with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")
    return target


def _sources() -> list[tuple[Path, str]]:
    """The files inside the installed package, found without importing it (it is slow to import)."""
    spec = importlib.util.find_spec("skimage")
    places = spec.submodule_search_locations if spec else None
    if not places:
        raise FileNotFoundError("the demo's pictures are those of scikit-image: pip install scikit-image")
    found = [(Path(places[0]) / "data" / name, caption) for name, caption in CAPTIONS.items()]
    missing = [str(path) for path, _ in found if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"this scikit-image has no {', '.join(missing)}: pip install -U scikit-image")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=None, help="pixels on the longer side")
    arguments = parser.parse_args()
    for path in write_pictures(arguments.folder, arguments.size):
        print(path)
