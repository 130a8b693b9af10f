"""Step "undistort": pictures and cameras without lens distortion, as splats are trained on."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pycolmap
from PIL import Image

from services.sfm.background import watch
from services.sfm.metadata import drop_place
from services.sfm.plan import Plan

_JPEG_QUALITY = 95
_ALL_COUNTS = 250  # of an interpolated mask
_MODEL_FILES = ("cameras.bin", "images.bin", "points3D.bin")


def undistort(
    model: pycolmap.Reconstruction, folder: Path, masks: Path, scratch: Path, output: Path, plan: Plan
) -> Generator[int, None, None]:
    """Writes ``images/`` and ``sparse/`` of PINHOLE cameras, and ``masks/`` of the photos that have one.

    Args:
        model: To undistort.
        folder: Of the prepared photos.
        masks: Of their masks.
        scratch: Empty folder.
        output: Where the two folders go.
        plan: Size and threads.

    Yields:
        Pictures done.
    """
    # COLMAP leaves more than is wanted, so it works beside, on the same disk.
    distorted, work_dir = scratch / "distorted", output / ".undistorted"
    distorted.mkdir()
    work_dir.mkdir()
    model.write(distorted)
    pictures = work_dir / "images"

    options = pycolmap.UndistortCameraOptions(max_image_size=plan.undistorted_size)

    def work(token: pycolmap.CancellationToken) -> None:
        pycolmap.undistort_images(
            work_dir,
            distorted,
            folder,
            undistort_options=options,
            jpeg_quality=_JPEG_QUALITY,
            num_threads=plan.threads,
            cancellation_token=token,
        )
        _undistort_masks(model, masks, output / "masks", options)

    def done() -> int:
        return sum(1 for _ in pictures.iterdir()) if pictures.is_dir() else 0

    yield from watch("undistort the photos", work, done)
    for picture in pictures.iterdir():
        drop_place(picture)
    pictures.rename(output / "images")
    sparse = output / "sparse"
    sparse.mkdir()
    for name in _MODEL_FILES:
        (work_dir / "sparse" / name).rename(sparse / name)
    shutil.rmtree(work_dir)


def _undistort_masks(
    model: pycolmap.Reconstruction, masks: Path, target: Path, options: pycolmap.UndistortCameraOptions
) -> None:
    """Writes ``{name}.png`` for each registered photo with a mask: 255 where all of a pixel counts."""
    for number in model.reg_image_ids():
        image = model.image(number)
        source = masks / f"{image.name}.png"
        if not source.is_file():
            continue
        target.mkdir(exist_ok=True)
        bitmap = pycolmap.Bitmap.read(source, False)
        assert bitmap is not None  # written by the step before
        flat, _ = pycolmap.undistort_image(options, bitmap, model.camera(image.camera_id))
        grey = np.asarray(flat.to_array()).reshape(flat.height, flat.width)
        Image.fromarray(np.where(grey >= _ALL_COUNTS, 255, 0).astype(np.uint8)).save(target / source.name)
