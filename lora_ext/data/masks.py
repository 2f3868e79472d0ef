"""Which file is the mask of which picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lora_ext.config import DataSetConfig
from lora_ext.data.folder import Folder
from lora_ext.data.picture_file import EXTENSIONS, printable
from lora_ext.errors import BadInput, Problem

ENDINGS = ("-mask", "_mask", ".mask", "-masklabel")
"""`cat-mask.png` beside `cat.png` is its mask; the last is what OneTrainer writes."""


def neighbours(pictures: Sequence[Path]) -> dict[Path, Path]:
    """Masks among the pictures of a folder, by the picture they belong to."""
    by_stem = {path.stem: path for path in pictures}
    found: dict[Path, Path] = {}
    for path in pictures:
        ending = next((e for e in ENDINGS if path.stem.lower().endswith(e)), None)
        owner = by_stem.get(path.stem[: -len(ending)]) if ending else None
        if owner:
            found[owner] = path
    return found


class MaskFolder:
    """Masks in a folder of their own, found by the picture's path below its own folder, else by its name."""

    def __init__(self, config: DataSetConfig) -> None:
        """Raises `BadInput` (field `mask_folder`) when there is no such folder."""
        self._files: Mapping[str, Path] = {}
        text = config.mask_folder.strip().strip("\"'")
        if not text:
            return
        root = Path(text).expanduser()
        try:
            files = sorted(path for path in root.rglob("*") if path.suffix.lower() in EXTENSIONS)
            there = root.is_dir()
        except (OSError, ValueError) as e:
            raise BadInput(Problem("mask_folder", "the folder cannot be read", got=repr(printable(text)))) from e
        if not there:
            raise BadInput(Problem("mask_folder", "there is no such folder", got=printable(str(root))))
        self._files = {path.relative_to(root).with_suffix("").as_posix(): path for path in files}
        self.given = True

    given = False

    def find(self, picture: Path, root: Path) -> Path | None:
        """The mask of a picture, if there is one."""
        stem = picture.relative_to(root).with_suffix("").as_posix()
        names = [f"{name}{ending}" for name in (stem, picture.stem) for ending in ("", *ENDINGS)]
        return next((self._files[name] for name in names if name in self._files), None)


def without_masks(folder: Folder) -> tuple[tuple[Path, ...], dict[Path, Path]]:
    """The pictures of a folder, and the masks of some of them that lie beside them."""
    pictures = folder.pictures()
    masks = neighbours(pictures)
    taken = set(masks.values())
    return tuple(path for path in pictures if path not in taken), masks
