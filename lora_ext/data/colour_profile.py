"""Colour profiles: pictures from cameras and print shops become sRGB, which is what models were made with."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image

PROFILE = "icc_profile"
"""Where Pillow keeps a picture's ICC profile."""


@dataclass(frozen=True)
class Profile:
    """A picture's colour profile. `problem` says why it cannot be used; empty when it can, or need not be."""

    name: str = ""
    problem: str = ""


def profile_of(image: Image.Image) -> Profile:
    """What is known about the profile of an opened picture, without decoding it. No profile: an empty name."""
    data = image.info.get(PROFILE)
    if not isinstance(data, bytes) or not data:
        return Profile()
    return _look(data, _mode(image))


def to_srgb(image: Image.Image, profile: Profile) -> Image.Image:
    """The decoded picture in sRGB (RGB or RGBA) by its profile; as it is where there is none, or no use for it."""
    if not profile.name or profile.problem:
        return image
    mode = _mode(image)
    transform = _transform(image.info[PROFILE], mode)
    if transform is None:
        return image
    plain = image if image.mode == mode else image.convert(mode)
    if mode != "RGBA":
        return transform.apply(plain)
    colours = transform.apply(plain.convert("RGB"))
    colours.putalpha(plain.getchannel("A"))
    return colours


def _mode(image: Image.Image) -> str:
    """The mode that the profile's numbers are in."""
    if image.mode in {"L", "CMYK", "RGB"} and "transparency" not in image.info:
        return image.mode
    return "RGBA" if image.mode in {"RGB", "RGBA", "P", "PA"} else image.mode


@lru_cache(maxsize=256)
def _look(data: bytes, mode: str) -> Profile:
    try:
        from PIL import ImageCms  # noqa: PLC0415  # may be missing from a Pillow made without Little CMS

        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        name = " ".join(ImageCms.getProfileDescription(profile).split()) or "unnamed"
    except ImportError:
        return Profile("unknown", "this Pillow was made without Little CMS")
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
        return Profile("unknown", "the profile is damaged")
    if "srgb" in name.casefold():
        return Profile()
    if mode not in {"L", "RGB", "RGBA", "CMYK"}:
        return Profile(name, f"a profile is of no use for pictures of the kind {mode}")
    return Profile(name) if _transform(data, mode) else Profile(name, "the profile does not fit the picture")


@lru_cache(maxsize=64)
def _transform(data: bytes, mode: str) -> _Transform | None:
    from PIL import ImageCms  # noqa: PLC0415

    source = "RGB" if mode == "RGBA" else mode
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        made = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), source, "RGB")
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
        return None
    return _Transform(made)


class _Transform:
    """From a profile's numbers to sRGB's."""

    def __init__(self, transform: Image.ImagePointHandler) -> None:
        self._transform = transform

    def apply(self, image: Image.Image) -> Image.Image:
        """A new RGB picture; without its profile, which is used up."""
        done = self._transform.point(image)
        done.info.pop(PROFILE, None)
        return done
