"""One data set: every picture of a folder with its caption, repeats and bucket, and everything worth telling."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from lora_ext.config import DataSetConfig
from lora_ext.data.buckets import Fit, Size, fit_limited, stretched
from lora_ext.data.caption_source import CaptionSource
from lora_ext.data.folder import MOST_REPEATS, Folder, Walk
from lora_ext.data.masks import MaskFolder, without_masks
from lora_ext.data.notices import Notices
from lora_ext.data.picture import Picture
from lora_ext.data.picture_file import Header, printable, read_header, readable_extensions
from lora_ext.data.report import Skipped, nothing_left, reason
from lora_ext.errors import BadInput, Problem

CUT_MUCH = 2 / 3
"""A picture of which less than this is left after cutting is worth a notice."""


def always() -> bool:
    """Nobody is in a hurry, and nobody wants the scan to end."""
    return True


class SetScan:
    """The scan of one data set: collects pictures and what was skipped, and tells `notices` the rest."""

    def __init__(self, config: DataSetConfig, notices: Notices, prefix: str = "") -> None:
        """`prefix`: put before every name, so that pictures of several sets are told apart."""
        self.config = config
        self.prefix = prefix
        self.walk = Walk(picture_folder(config.images))
        self.readable = readable_extensions()
        self.notices = notices
        self.captions = CaptionSource(config, notices)
        self.mask_folder = MaskFolder(config)
        self.pictures: list[Picture] = []
        self.skipped: list[Skipped] = []

    def run(self, go_on: Callable[[], bool] = always) -> None:
        """Walk the folder. Raises `BadInput` when there is nothing to use in it, or a picture has no words at all.

        `go_on` is asked before each picture: it may take its time, and False ends the scan as it stands.
        """
        for folder in self._folders():
            if not self._visit(folder, go_on):
                return
        for name, why in self.walk.unreadable.items():
            self.notices.add(f"Folder cannot be read ({why}) and is left out", self.prefix + name)
        for name in self.walk.dates:
            self.notices.add(
                f"Number in front of the folder's name is above {MOST_REPEATS}: not taken as repeats", name
            )
        for skipped in self.skipped:
            self.notices.add("Picture skipped", f"{skipped.name} ({skipped.reason})")
        if not self.pictures:
            raise BadInput(nothing_left(self.skipped) if self.skipped else _no_pictures(self.walk.root, self.notices))
        if self.captions.uncaptioned:
            raise BadInput(_no_caption(self.captions.uncaptioned))

    def _name(self, path: Path) -> str:
        return self.prefix + self.walk.name_of(path)

    def _folders(self) -> list[Folder]:
        try:
            return list(self.walk.folders())
        except OSError as e:
            raise BadInput(_unreadable(self.walk.root, e)) from e

    def _visit(self, folder: Folder, go_on: Callable[[], bool]) -> bool:
        """Whether the scan goes on."""
        for path in folder.other_pictures():
            why = "files of this kind are not read; convert it to png or jpg"
            self.skipped.append(Skipped(self._name(path), why))
        if folder.repeats == 0 and folder.pictures():
            self.notices.add("Folder with 0 repeats is left out", self.prefix + (folder.name or self.walk.root.name))
            return True
        if folder.repeats is not None and not folder.name and folder.repeats != self.config.repeats:
            self.notices.add(
                f"The picture folder's own name sets {folder.repeats} repeats", printable(self.walk.root.name)
            )
        pictures, masks = without_masks(folder)
        for path in masks.values():
            self.notices.add("Taken as the mask of another picture", self._name(path))
        self._note_twins(pictures)
        self.captions.enter(folder)
        for path in pictures:
            if not go_on():
                return False
            self._picture(folder, path, masks.get(path))
        return True

    def _picture(self, folder: Folder, path: Path, mask: Path | None) -> None:
        name = self._name(path)
        if path.suffix.lower() not in self.readable:
            self.skipped.append(Skipped(name, f"this Pillow cannot read {path.suffix.lower()}; convert it to png"))
            return
        try:
            header = read_header(path)
        except BadInput as e:
            self.skipped.append(Skipped(name, reason(e)))
            return
        config = self.config
        fitted = fit_limited(header.size, config.resolution, config.upscale_limit, square=not config.buckets)
        if fitted is None:
            self.skipped.append(Skipped(name, f"{_by(header.size)} px is too small for the upscaling limit"))
            return
        if config.crop == "none":
            fitted = stretched(fitted)
        self._note_header(name, header, fitted)
        words = self.captions.words(name, path, folder.concept)
        wander = config.crop == "random" and fitted.resized != fitted.bucket
        self.pictures.append(
            Picture(
                path=path,
                name=name,
                caption=words.plain(),
                repeats=config.repeats if folder.repeats is None else folder.repeats,
                size=header.size,
                orientation=header.orientation,
                bucket=fitted.bucket,
                resized=fitted.resized,
                crop=fitted.crop,
                regularisation=config.regularisation,
                weight=config.picture_weight,
                flips=config.flip,
                words=words if words.varies() else None,
                mask=self._mask(path, header, mask),
                variations=config.variations if wander or config.colour_jitter else 1,
                wander=wander,
                jitter=config.colour_jitter,
            )
        )

    def _mask(self, path: Path, header: Header, neighbour: Path | None) -> Path | None:
        found = self.mask_folder.find(path, self.walk.root) or neighbour
        return found or (path if header.transparent and self.config.alpha_mask else None)

    def _note_header(self, name: str, header: Header, fitted: Fit) -> None:
        if header.transparent:
            self.notices.add("Transparent parts become white", name)
        if header.animated:
            self.notices.add("Animated: only the first frame is used", name)
        if header.profile.problem:
            self.notices.add(f"Colours may be off: the colour profile is not used ({header.profile.problem})", name)
        if fitted.resized[0] > header.size[0]:
            self.notices.add("Smaller than its training size and scaled up", f"{name} ({_by(header.size)})")
        if self.config.buckets and fitted.kept < CUT_MUCH:
            self.notices.add(f"So long that over {1 - CUT_MUCH:.0%} is cut off", f"{name} ({_by(header.size)})")

    def _note_twins(self, pictures: tuple[Path, ...]) -> None:
        """Pictures that differ in nothing but the extension; often the same picture saved twice."""
        stems = Counter(p.stem for p in pictures)
        for path in pictures:
            if stems[path.stem] > 1:
                self.notices.add("Same name but for the extension: all are used, with one caption", self._name(path))


def picture_folder(images: str) -> Path:
    """The folder as typed, without the quotes that Windows copies around paths. Raises `BadInput` (`images`)."""
    text = images.strip().strip("\"'")
    try:
        root = Path(text).expanduser().absolute()
        exists, is_folder = root.exists(), root.is_dir()
    except (OSError, ValueError, RuntimeError) as e:  # NUL in the name, too long, no such user
        raise BadInput(Problem("images", "this is no usable folder name", got=repr(images))) from e
    if not text:
        raise BadInput(Problem("images", "no picture folder was given", fix="Give the folder your pictures are in."))
    if not exists:
        raise BadInput(
            Problem("images", "there is no such folder", got=printable(str(root)), fix="Check the spelling.")
        )
    if not is_folder:
        fix = "Give the folder the picture is in."
        raise BadInput(Problem("images", "this is a file, not a folder", got=printable(str(root)), fix=fix))
    return root


def _unreadable(root: Path, error: OSError) -> Problem:
    said = error.strerror or type(error).__name__
    return Problem(
        "images", f"the folder cannot be read ({said})", got=printable(str(root)), fix="Check its permissions."
    )


def _no_pictures(root: Path, notices: Notices) -> Problem:
    fix = "Put png, jpg, webp, bmp or avif pictures into it."
    return Problem("images", "there are no pictures", got=printable(str(root)), fix=" ".join((fix, *notices.lines())))


def _no_caption(names: list[str]) -> Problem:
    notices = Notices()
    for name in names:
        notices.add("Without caption", name)
    fix = "Give a concept name, or put a .txt file with the same name beside each. " + " ".join(notices.lines())
    return Problem("concept", "there are pictures without a caption and no concept name to use instead", fix=fix)


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
