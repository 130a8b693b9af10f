"""Step "extract": SIFT features of every photo, into COLMAP's database."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from itertools import groupby
from pathlib import Path

import pycolmap

from services.sfm.background import watch
from services.sfm.photos import Photo
from services.sfm.plan import Plan

CAMERA_MODEL = "SIMPLE_RADIAL"
"""One focal length and one distortion: enough for phones and cameras, and hard to overfit."""

SEED = 0
"""Of every random choice that COLMAP makes."""


def camera_groups(photos: Iterable[Photo]) -> list[list[str]]:
    """Names of the photos that share one camera model.

    Photos share when they have the same size and EXIF tells nothing against it: the same
    camera at the same focal length, or no EXIF at all, as frames of a video have none.

    Args:
        photos: Prepared photos.

    Returns:
        Names per camera.
    """

    def key(photo: Photo) -> tuple[int, int, tuple[str, ...]]:
        return photo.width, photo.height, photo.camera

    ordered = sorted(photos, key=key)
    return [[photo.name for photo in group] for _, group in groupby(ordered, key=key)]


def import_photos(database: Path, folder: Path, groups: list[list[str]]) -> None:
    """Enters photos and their cameras into a new database.

    Args:
        database: File to make.
        folder: Of the prepared photos.
        groups: Names per camera.
    """
    pycolmap.Database.open(database).close()
    reader = pycolmap.ImageReaderOptions(camera_model=CAMERA_MODEL)
    for names in groups:
        pycolmap.import_images(database, folder, pycolmap.CameraMode.SINGLE, names, reader)


def extract(database: Path, folder: Path, masks: Path, plan: Plan) -> Generator[int, None, dict[str, int]]:
    """Finds features in all imported photos.

    Args:
        database: With the imported photos.
        folder: Of the prepared photos.
        masks: Of their masks; nothing is found where one is 0.
        plan: How many, where.

    Yields:
        Photos done.

    Returns:
        Number of features by photo.
    """
    options = pycolmap.FeatureExtractionOptions(
        max_image_size=plan.feature_image_size, num_threads=plan.threads, use_gpu=plan.use_gpu
    )
    options.sift.max_num_features = plan.max_features
    options.sift.first_octave = -1 if plan.double_size else 0
    # Progress is read through COLMAP's own copy of SQLite. Python's would open the same file
    # a second time within this process, and POSIX drops a process's locks on a file when any
    # of its descriptors is closed: COLMAP then dies with SIGBUS.
    with pycolmap.Database.open(database) as view:
        images = {image.image_id: image.name for image in view.read_all_images()}

        def work(token: pycolmap.CancellationToken) -> None:
            # COLMAP takes no photo without a mask once there is a folder of masks.
            masked = [name for name in images.values() if (masks / f"{name}.png").exists()]
            whole = [name for name in images.values() if name not in masked]
            for names, reader in ((whole, {}), (masked, {"mask_path": masks})):
                if names and not token.is_cancelled:
                    pycolmap.extract_features(
                        database,
                        folder,
                        names,
                        reader_options=pycolmap.ImageReaderOptions(**reader),
                        extraction_options=options,
                        device=plan.device,
                        cancellation_token=token,
                    )

        yield from watch("find features", work, lambda: sum(map(view.exists_keypoints, images)))
        return {name: view.num_keypoints_for_image(number) for number, name in images.items()}
