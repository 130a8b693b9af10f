"""EXIF: what tells cameras apart, and what must not leave with a picture."""

from __future__ import annotations

from pathlib import Path

from PIL import ExifTags, Image

_APP1, _APP13, _START_OF_SCAN = 0xE1, 0xED, 0xDA
_EXIF_HEADER = b"Exif\x00\x00"


def camera_key(exif: Image.Exif) -> tuple[str, ...]:
    """Make, model and focal lengths; photos that agree in it were taken through one lens setting.

    Args:
        exif: Of a photo; may be empty.

    Returns:
        Comparable strings, empty where a tag is missing.
    """
    details = exif.get_ifd(ExifTags.IFD.Exif)
    tags = (ExifTags.Base.FocalLength, ExifTags.Base.FocalLengthIn35mmFilm, ExifTags.Base.DigitalZoomRatio)
    names = [str(exif.get(tag, "")).strip("\x00 ") for tag in (ExifTags.Base.Make, ExifTags.Base.Model)]
    return (*names, *(str(details.get(tag, "")) for tag in tags))


def without_place(exif: Image.Exif) -> Image.Exif:
    """A copy that names neither the place nor the orientation (pixels are stored upright).

    Args:
        exif: Any; left unchanged.

    Returns:
        The copy.
    """
    copy = Image.Exif()
    copy.load(exif.tobytes())
    copy.get_ifd(ExifTags.IFD.Exif)  # keeps the details: they are written only once they are read
    for tag in (ExifTags.IFD.GPSInfo, ExifTags.Base.Orientation):
        if tag in copy:
            del copy[tag]
    return copy


def drop_place(path: Path) -> None:
    """Removes where a picture was taken from its file, without touching its pixels.

    GPS tags go; so do XMP and IPTC blocks, which may repeat them.

    Args:
        path: A JPEG or PNG file; rewritten only when there is something to remove.
    """
    with Image.open(path) as image:
        exif, kind = image.getexif(), image.format
        blocks = {"xmp", "photoshop", "XML:com.adobe.xmp"} & set(image.info)
        if ExifTags.IFD.GPSInfo not in exif and not blocks:
            return
        cleaned = without_place(exif)
        if kind != "JPEG":
            image.load()
            for block in blocks:
                del image.info[block]
            image.save(path, format=kind, exif=cleaned)
            return
    path.write_bytes(_with_exif(path.read_bytes(), cleaned.tobytes()))


def _with_exif(jpeg: bytes, exif: bytes) -> bytes:
    """The JPEG with its application blocks 1 and 13 replaced by one EXIF block (ITU T.81, annex B)."""
    body = exif if exif.startswith(_EXIF_HEADER) else _EXIF_HEADER + exif
    parts = [jpeg[:2], bytes([0xFF, _APP1]) + (len(body) + 2).to_bytes(2, "big") + body]
    position = 2
    while jpeg[position + 1] != _START_OF_SCAN:
        marker = jpeg[position + 1]
        end = position + 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
        if marker not in (_APP1, _APP13):
            parts.append(jpeg[position:end])
        position = end
    return b"".join([*parts, jpeg[position:]])
