"""Step "undistort": pictures and cameras without lens distortion, as splats are trained on."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from pathlib import Path

import pycolmap

from services.sfm.background import watch
from services.sfm.metadata import drop_place
from services.sfm.plan import Plan

_JPEG_QUALITY = 95
_MODEL_FILES = ("cameras.bin", "images.bin", "points3D.bin")


def undistort(
    model: pycolmap.Reconstruction, folder: Path, scratch: Path, output: Path, plan: Plan
) -> Generator[int, None, None]:
    """Writes ``images/`` and ``sparse/`` of PINHOLE cameras.

    Args:
        model: To undistort.
        folder: Of the prepared photos.
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

    def work(token: pycolmap.CancellationToken) -> None:
        pycolmap.undistort_images(
            work_dir,
            distorted,
            folder,
            undistort_options=pycolmap.UndistortCameraOptions(max_image_size=plan.undistorted_size),
            jpeg_quality=_JPEG_QUALITY,
            num_threads=plan.threads,
            cancellation_token=token,
        )

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
