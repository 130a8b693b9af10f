"""Writing the capture: photos with EXIF, and the true cameras beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from splatmill.errors import Reason, SplatmillError
from splatmill.sample.camera import FOCAL_LENGTH_35MM, SampleCamera, capture_path
from splatmill.sample.render import render_view
from splatmill.sample.scene import SCENE_SIZE, build_scene

CAMERAS_FILE = "cameras.json"
_JPEG_QUALITY = 92
_FOCAL_LENGTH_MM = 4.25


def write_capture(
    directory: Path,
    photos: int = 30,
    width: int = 960,
    height: int = 720,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Renders photos of the sample scene and writes them with their true cameras.

    Leaves ``photo_000.jpg`` and so on, and ``cameras.json``: ``scene_size`` in world
    units and per photo its name, size, intrinsics in pixels and ``cam_from_world``.

    Args:
        directory: Where to write; made if it is not there.
        photos: How many, at least 2.
        width: Of each photo, in pixels.
        height: Of each photo, in pixels.
        seed: Of textures and poses; the same seed gives the same photos.
        on_progress: Called with the number of photos done and of all photos.

    Raises:
        SplatmillError: Fewer than two photos, or a side below 32 pixels.
    """
    if photos < 2 or min(width, height) < 32:
        raise SplatmillError(
            Reason.INVALID_OPTION,
            f"Cannot make {photos} photos of {width}x{height} pixels.",
            "Ask for at least 2 photos of at least 32x32 pixels.",
        )
    directory.mkdir(parents=True, exist_ok=True)
    cameras = {
        f"photo_{i:03d}.jpg": camera for i, camera in enumerate(capture_path(photos, width, height, seed))
    }
    build_scene(seed)  # once, before the threads ask for it
    with ThreadPoolExecutor(_usable_cores()) as pool:
        jobs = [pool.submit(_write_photo, directory / name, camera, seed) for name, camera in cameras.items()]
        try:
            for done, job in enumerate(as_completed(jobs), start=1):
                job.result()
                if on_progress is not None:
                    on_progress(done, photos)
        finally:
            pool.shutdown(cancel_futures=True)
    listing = [{"name": name, **camera.to_json()} for name, camera in cameras.items()]
    document = {"scene_size": SCENE_SIZE, "seed": seed, "photos": listing}
    (directory / CAMERAS_FILE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def read_cameras(directory: Path) -> dict[str, SampleCamera]:
    """The true cameras of a capture.

    Args:
        directory: Where ``write_capture`` wrote.

    Returns:
        Cameras by photo name.
    """
    document = json.loads((directory / CAMERAS_FILE).read_text(encoding="utf-8"))
    return {photo["name"]: SampleCamera.from_json(photo) for photo in document["photos"]}


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write_photo(path: Path, camera: SampleCamera, seed: int) -> None:
    image = Image.fromarray(render_view(camera, seed))
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Splatmill"
    exif[ExifTags.Base.Model] = "Sample camera"
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.FocalLength] = IFDRational(round(_FOCAL_LENGTH_MM * 100), 100)
    details[ExifTags.Base.FocalLengthIn35mmFilm] = FOCAL_LENGTH_35MM
    image.save(path, quality=_JPEG_QUALITY, subsampling=0, exif=exif)
