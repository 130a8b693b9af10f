"""What file names say: which are photos, and which are masks, that are no photos themselves."""

from __future__ import annotations

from pathlib import PurePosixPath

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")
MASK_SUFFIX = ".mask.png"
"""Of a photo's mask: ``NAME.mask.png`` or ``NAME.jpg.mask.png`` beside ``NAME.jpg``."""


def is_mask(filename: str) -> bool:
    """Whether a file of this name is a photo's mask."""
    return filename.casefold().endswith(MASK_SUFFIX)


def photo_stem(filename: str) -> str:
    """A photo's name without its suffix, from the name of the photo or of its mask."""
    if not is_mask(filename):
        return PurePosixPath(filename).stem
    photo = PurePosixPath(filename[: -len(MASK_SUFFIX)])
    return photo.stem if photo.suffix.lower() in PHOTO_SUFFIXES else photo.name
