"""From a folder to a data set: every picture with its caption, repeats and bucket, and everything worth telling."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from lora_ext.config import DataConfig
from lora_ext.data.buckets import Fit, Size, bucket_sizes, fit
from lora_ext.data.captions import CaptionFiles, read_caption
from lora_ext.data.folder import MOST_REPEATS, Folder, Walk
from lora_ext.data.notices import Notices
from lora_ext.data.picture import Header, Picture, printable, read_header, readable_extensions
from lora_ext.errors import BadInput, Problem

CUT_MUCH = 2 / 3
"""A picture of which less than this is left after cutting is worth a notice."""


@dataclass(frozen=True)
class Skipped:
    """A picture that is not used, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class DataReport:
    """The data set, in natural order of file names, and what the user should know about it."""

    pictures: tuple[Picture, ...]
    notices: tuple[str, ...]
    skipped: tuple[Skipped, ...]

    @property
    def captions(self) -> tuple[str, ...]:
        """Every different caption, in order of first use."""
        return tuple(dict.fromkeys(p.caption for p in self.pictures))

    @property
    def samples(self) -> int:
        """Pictures times their repeats: how many are seen per epoch."""
        return sum(p.repeats for p in self.pictures)

    @property
    def bucket_counts(self) -> dict[Size, int]:
        """Samples per bucket (width, height), smallest first."""
        counts: Counter[Size] = Counter()
        for p in self.pictures:
            counts[p.bucket] += p.repeats
        return dict(sorted(counts.items()))

    @property
    def folders(self) -> dict[str, tuple[int, int]]:
        """Repeats and number of pictures by folder (empty name: the picture folder itself)."""
        counts = Counter((p.folder, p.repeats) for p in self.pictures)
        return {folder: (repeats, n) for (folder, repeats), n in counts.items()}

    @property
    def tag_counts(self) -> dict[str, dict[str, int]]:
        """How often each comma-separated part of a caption occurs, by folder, most frequent first."""
        counts: dict[str, Counter[str]] = {}
        for p in self.pictures:
            tags = (tag.strip() for tag in p.caption.split(","))
            counts.setdefault(p.folder, Counter()).update(tag for tag in tags if tag)
        return {folder: dict(counter.most_common()) for folder, counter in counts.items()}

    def without(self, skipped: Iterable[Skipped]) -> DataReport:
        """The same without pictures that turned out to be unusable. Raises `BadInput` when none is left."""
        more = tuple(skipped)
        names = {s.name for s in more}
        left = tuple(p for p in self.pictures if p.name not in names)
        if not left:
            raise BadInput(_nothing_left((*self.skipped, *more)))
        return replace(self, pictures=left, skipped=(*self.skipped, *more))


def scan(config: DataConfig) -> DataReport:
    """Find the pictures of `config.images` and decide how each is used; reads headers and captions, no pixels.

    Captions: `<stem>.txt`, else `<stem>.caption`, else `config.concept`, else the concept of an `N_concept` folder.
    Raises `BadInput`: field `images` when there is no readable folder or no usable picture in it, field `concept` when
    a picture has no caption at all. Pictures that cannot be used are skipped; `skipped` and `notices` say why.
    """
    return _Scan(config).run()


class _Scan:
    """One scan: collects pictures, what was skipped and what to tell."""

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self.walk = Walk(_root(config.images))
        self.buckets = bucket_sizes(config.resolution) if config.buckets else ((config.resolution,) * 2,)
        self.readable = readable_extensions()
        self.notices = Notices()
        self.pictures: list[Picture] = []
        self.skipped: list[Skipped] = []
        self.uncaptioned: list[str] = []

    def run(self) -> DataReport:
        for folder in self._folders():
            self._visit(folder)
        for name, reason in self.walk.unreadable.items():
            self.notices.add(f"Folder cannot be read ({reason}) and is left out", name)
        for name in self.walk.dates:
            self.notices.add(
                f"Number in front of the folder's name is above {MOST_REPEATS}: not taken as repeats", name
            )
        for skipped in self.skipped:
            self.notices.add("Picture skipped", f"{skipped.name} ({skipped.reason})")
        if not self.pictures:
            raise BadInput(_nothing_left(self.skipped) if self.skipped else _no_pictures(self.walk.root, self.notices))
        if self.uncaptioned:
            raise BadInput(_no_caption(self.uncaptioned))
        return DataReport(tuple(self.pictures), self.notices.lines(), tuple(self.skipped))

    def _folders(self) -> list[Folder]:
        try:
            return list(self.walk.folders())
        except OSError as e:
            raise BadInput(_unreadable(self.walk.root, e)) from e

    def _visit(self, folder: Folder) -> None:
        for path in folder.other_pictures():
            self.notices.add("File type is not read; convert it to png or jpg to use it", self.walk.name_of(path))
        if folder.repeats == 0 and folder.pictures():
            self.notices.add("Folder with 0 repeats is left out", folder.name or self.walk.root.name)
            return
        if folder.repeats is not None and not folder.name and folder.repeats != self.config.repeats:
            self.notices.add(
                f"The picture folder's own name sets {folder.repeats} repeats", printable(self.walk.root.name)
            )
        self._note_twins(folder)
        captions = CaptionFiles(folder.files)
        for path in folder.pictures():
            self._picture(folder, path, captions)

    def _picture(self, folder: Folder, path: Path, captions: CaptionFiles) -> None:
        name = self.walk.name_of(path)
        if path.suffix.lower() not in self.readable:
            self.skipped.append(Skipped(name, f"this Pillow cannot read {path.suffix.lower()}; convert it to png"))
            return
        try:
            header = read_header(path)
        except BadInput as e:
            self.skipped.append(Skipped(name, reason(e)))
            return
        fitted = fit(header.size, self.buckets)
        self._note_header(name, header, fitted)
        repeats = self.config.repeats if folder.repeats is None else folder.repeats
        self.pictures.append(
            Picture(
                path=path,
                name=name,
                caption=self._caption(name, captions.find(path), folder.concept),
                repeats=repeats,
                size=header.size,
                orientation=header.orientation,
                bucket=fitted.bucket,
                resized=fitted.resized,
                crop=fitted.crop,
            )
        )

    def _caption(self, name: str, files: tuple[Path, ...], concept: str) -> str:
        if len(files) > 1:
            self.notices.add("Both a .txt and a .caption file: the .txt is used", name)
        text = self._caption_text(name, files[0]) if files else None
        if text:
            return text
        fallback = self.config.concept.strip() or concept
        if text is None and not fallback:
            self.uncaptioned.append(name)
        elif text is None:
            self.notices.add(f"No caption file: the caption is {fallback!r}", name)
        elif fallback:
            self.notices.add(f"Caption file is empty: the caption is {fallback!r}", name)
        else:
            self.notices.add("Caption file is empty: trained without words", name)
        return fallback

    def _caption_text(self, name: str, path: Path) -> str | None:
        try:
            caption = read_caption(path)
        except OSError as e:
            self.notices.add(f"Caption file cannot be read ({e.strerror or type(e).__name__})", name)
            return None
        if caption.encoding:
            what = f"Caption is not UTF-8 and was read as {caption.encoding}; save it as UTF-8 if accents look wrong"
            self.notices.add(what, name)
        return caption.text

    def _note_header(self, name: str, header: Header, fitted: Fit) -> None:
        if header.transparent:
            self.notices.add("Transparent parts become white", name)
        if header.animated:
            self.notices.add("Animated: only the first frame is used", name)
        if fitted.resized[0] > header.size[0]:
            self.notices.add("Smaller than its training size and scaled up", f"{name} ({_by(header.size)})")
        if self.config.buckets and fitted.kept < CUT_MUCH:
            self.notices.add(f"So long that over {1 - CUT_MUCH:.0%} is cut off", f"{name} ({_by(header.size)})")

    def _note_twins(self, folder: Folder) -> None:
        """Pictures that differ in nothing but the extension; often the same picture saved twice."""
        stems = Counter(p.stem for p in folder.pictures())
        for path in folder.pictures():
            if stems[path.stem] > 1:
                self.notices.add(
                    "Same name but for the extension: all are used, with one caption", self.walk.name_of(path)
                )


def reason(error: BadInput) -> str:
    """Why a picture is unusable, without its name: for `Skipped`."""
    return "; ".join(p.what + (f", expected {p.expected}" if p.expected else "") for p in error.problems)


def _root(images: str) -> Path:
    """The folder as typed, without the quotes that Windows copies around paths. Raises `BadInput`."""
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


def _nothing_left(skipped: Iterable[Skipped]) -> Problem:
    notices = Notices()
    for s in skipped:
        notices.add("Picture skipped", f"{s.name} ({s.reason})")
    return Problem("images", "none of the pictures can be used", fix=" ".join(notices.lines()))


def _no_caption(names: list[str]) -> Problem:
    notices = Notices()
    for name in names:
        notices.add("Without caption", name)
    fix = "Give a concept name, or put a .txt file with the same name beside each. " + " ".join(notices.lines())
    return Problem("concept", "there are pictures without a caption and no concept name to use instead", fix=fix)


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
