"""Is this a photo that can be worked on? Asked before it is taken in."""

from __future__ import annotations

import io
import struct
import unicodedata
import zlib

from PIL import Image, UnidentifiedImageError

from splatmill.errors import Reason, SplatmillError

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")
_MAX_NAME_BYTES = 255
_MIN_SIDE = 32

# The limit is ours, from the settings, and an error instead of a warning.
Image.MAX_IMAGE_PIXELS = None


def check_name(name: str) -> None:
    """Accepts a plain file name.

    Raises:
        SplatmillError: BAD_FILENAME.
    """
    bad = (
        not name.strip()
        or name.startswith(".")
        or any(sign in name for sign in "/\\:")
        or any(unicodedata.category(sign).startswith("C") for sign in name)
        or len(name.encode(errors="surrogatepass")) > _MAX_NAME_BYTES
    )
    if bad:
        raise SplatmillError(
            Reason.BAD_FILENAME, f"{name[:80]!r} cannot be the name of a photo.",
            "Use a plain file name without folders, such as photo_01.jpg.", field=name[:80],
        )  # fmt: skip


def check_photo(name: str, data: bytes, max_pixels: int) -> tuple[int, int]:
    """Decodes a photo and answers its width and height as shown, EXIF orientation applied.

    Raises:
        SplatmillError: NOT_AN_IMAGE, IMAGE_TRUNCATED or IMAGE_TOO_LARGE.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise SplatmillError(
                    Reason.IMAGE_TOO_LARGE,
                    f"{name} has {image.width} x {image.height} pixels; at most {max_pixels:,} are accepted.",
                    "Shrink it before the upload.", field=name,
                )  # fmt: skip
            if min(image.size) < _MIN_SIDE:
                raise SplatmillError(
                    Reason.NOT_AN_IMAGE, f"{name} is only {image.width} x {image.height} pixels.",
                    "Upload the photo itself, not a thumbnail.", field=name,
                )  # fmt: skip
            # An eighth of the size still reads every byte, so that a cut is found, at little cost.
            size = image.size
            image.draft(None, (max(1, size[0] // 8), max(1, size[1] // 8)))
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            image.load()
    except UnidentifiedImageError:
        raise SplatmillError(
            Reason.NOT_AN_IMAGE, f"{name} is not an image this service reads.",
            f"Upload {', '.join(FORMATS[:-1])} or {FORMATS[-1]} files.", field=name,
        ) from None  # fmt: skip
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error, EOFError) as error:
        raise SplatmillError(
            Reason.IMAGE_TRUNCATED, f"{name} is damaged or cut off: {error}.",
            "Copy the photo again from the camera and upload that.", field=name,
        ) from None  # fmt: skip
    return (size[1], size[0]) if turned else size
