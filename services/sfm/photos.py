"""Step "prepare": photos as COLMAP and the trainer can take them, upright, 8 bits, RGB."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from services.sfm.metadata import camera_key, without_place
from splatmill._photo_names import MASK_SUFFIX, is_mask
from splatmill.errors import Reason, SplatmillError

_COUNTS = 128  # alpha, or grey of a mask, from which on a pixel counts
_LEAST_PHOTOS = 3
_LEAST_SIDE = 16  # pixels
_JPEG_QUALITY = 98  # of photos that must be written anew; nothing one could see is lost


@dataclass(frozen=True)
class Photo:
    """A photo ready for COLMAP."""

    name: str
    """File name in the folder of prepared photos: no blanks, since COLMAP's lists are split at them."""
    original: str
    """Name of the uploaded file."""
    width: int
    """Pixels, as shown."""
    height: int
    """Pixels, as shown."""
    camera: tuple[str, ...]
    """What EXIF says about camera and lens; see ``camera_key``."""
    masked: bool = False
    """Whether a part of it does not count: ``{name}.png`` in the folder of masks is 0 there, else 255."""

    @property
    def has_exif(self) -> bool:
        """Whether EXIF names the camera or its focal length."""
        return any(self.camera)


@dataclass(frozen=True)
class LeftOut:
    """A photo that is not part of the result, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Prepared:
    """What the step answers."""

    photos: list[Photo]
    left_out: list[LeftOut]
    rewritten: int
    """Photos whose pixels had to be turned or converted."""


def prepare(source: Path, target: Path, masks: Path) -> Generator[int, None, Prepared]:
    """Links or converts every photo into a folder.

    A photo is linked as it is when it is an upright RGB JPEG or PNG of 8 bits. Otherwise
    it is turned as its EXIF orientation says, brought to 8 bits and RGB, and written anew.
    Copies of a photo already seen are left out: they add no view.

    What is transparent, or black in a grey picture ``NAME.mask.png`` beside the photo
    ``NAME.jpg``, does not count: no features are looked for and nothing is learned there.

    Args:
        source: Folder of uploaded photos; not written to.
        target: Empty folder for the prepared ones.
        masks: Empty folder for the masks of those that have one, ``{name}.png``.

    Yields:
        Photos looked at so far.

    Returns:
        Photos in natural order of their names (2 before 10), and those left out.

    Raises:
        SplatmillError: TOO_FEW_IMAGES when fewer than three distinct photos can be read.
    """
    files = sorted((path for path in source.iterdir() if path.is_file()), key=lambda path: natural(path.name))
    files, mask_of, left_out = _without_masks(files)
    photos: list[Photo] = []
    first_with: dict[bytes, str] = {}
    rewritten = 0
    for number, path in enumerate(files):
        yield number
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").digest()
        if digest in first_with:
            left_out.append(LeftOut(path.name, f"is a copy of {first_with[digest]}"))
            continue
        first_with[digest] = path.name
        try:
            taken = {photo.name for photo in photos}
            photo, changed = _prepare_one(path, mask_of.get(path), target, masks, taken)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            left_out.append(LeftOut(path.name, f"cannot be read ({error})"))
            continue
        if min(photo.width, photo.height) < _LEAST_SIDE:
            left_out.append(LeftOut(path.name, f"is too small ({photo.width}x{photo.height})"))
            continue
        photos.append(photo)
        rewritten += changed
    if len(photos) < _LEAST_PHOTOS:
        raise _too_few(len(files), photos, left_out)
    return Prepared(photos, left_out, rewritten)


def natural(name: str) -> list[tuple[int, int | str]]:
    """Sorting key that puts photo_2 before photo_10."""
    parts = re.split(r"(\d+)", name.lower())
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts if part]


def _too_few(files: int, photos: list[Photo], left_out: list[LeftOut]) -> SplatmillError:
    why = "; ".join(f"{item.name} {item.reason}" for item in left_out[:3])
    return SplatmillError(
        Reason.TOO_FEW_IMAGES,
        f"Only {len(photos)} of {files} photos can be used{': ' + why if why else ''}.",
        f"Upload at least {_LEAST_PHOTOS} different photos of the same place from different positions.",
    )


def _without_masks(files: list[Path]) -> tuple[list[Path], dict[Path, Path], list[LeftOut]]:
    """The photos, the mask file of those that have one, and mask files without a photo."""
    named = [path for path in files if is_mask(path.name)]
    photos = [path for path in files if path not in named]
    owners = {path.stem.casefold(): path for path in photos}
    owners |= {path.name.casefold(): path for path in photos}
    mask_of: dict[Path, Path] = {}
    alone = []
    for path in named:
        owner = owners.get(path.name.casefold().removesuffix(MASK_SUFFIX))
        if owner is None:
            alone.append(LeftOut(path.name, "is a mask of no photo"))
        else:
            mask_of[owner] = path
    return photos, mask_of, alone


def _prepare_one(
    path: Path, mask_file: Path | None, target: Path, masks: Path, taken: set[str]
) -> tuple[Photo, bool]:
    with Image.open(path) as image:
        exif = image.getexif()
        camera = camera_key(exif)
        upright = exif.get(ExifTags.Base.Orientation, 1) in (0, 1)
        plain = upright and image.format in ("JPEG", "MPO", "PNG") and image.mode == "RGB"
        suffix = ".png" if image.format == "PNG" else ".jpg"
        name = _free_name(path.name, suffix, taken)
        if plain:
            image.load()  # a truncated file must be found here, where its name is known
            (target / name).symlink_to(path.resolve())
            masked = _write_mask(masks / f"{name}.png", image, mask_file)
            return Photo(name, path.name, image.width, image.height, camera, masked), False
        turned = ImageOps.exif_transpose(image)
        masked = _write_mask(masks / f"{name}.png", turned, mask_file)
        converted = _as_rgb(turned)
    if suffix == ".png":
        converted.save(target / name, exif=without_place(exif), compress_level=3)
    else:
        converted.save(target / name, exif=without_place(exif), quality=_JPEG_QUALITY, subsampling=0)
    return Photo(name, path.name, converted.width, converted.height, camera, masked), True


def _write_mask(path: Path, image: Image.Image, mask_file: Path | None) -> bool:
    """Writes what counts of an upright photo, where that is not all of it; answers whether it did.

    Raises:
        ValueError: Nothing of it counts.
    """
    counts = np.ones((image.height, image.width), np.bool_)
    if image.has_transparency_data:
        counts &= np.asarray(image.convert("RGBA").getchannel("A")) >= _COUNTS
    if mask_file is not None:
        with Image.open(mask_file) as opened:
            grey = ImageOps.exif_transpose(opened).convert("L").resize(image.size, Image.Resampling.NEAREST)
        counts &= np.asarray(grey) >= _COUNTS
    if counts.all():
        return False
    if not counts.any():
        raise ValueError("its mask leaves nothing of it")
    Image.fromarray(np.where(counts, 255, 0).astype(np.uint8)).save(path)
    return True


def _free_name(name: str, suffix: str, taken: set[str]) -> str:
    """The name without blanks and with the right suffix, made unique."""
    fitting = (".jpg", ".jpeg") if suffix == ".jpg" else (suffix,)
    name = re.sub(r"\s", "_", name if name.lower().endswith(fitting) else name + suffix)
    stem, _, old_suffix = name.rpartition(".")
    number = 2
    while name in taken:
        name, number = f"{stem}_{number}.{old_suffix}", number + 1
    return name


def _as_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB; deeper greys are scaled to their own range, alpha is dropped."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0, neginf=0)
        top = 65535.0 if values.max() > 255 else 255.0
        return Image.fromarray(np.clip(values * (255.0 / top) + 0.5, 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")
