"""Step "map": cameras and points from matches, by COLMAP's incremental mapper."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pycolmap

from services.sfm.background import watch
from services.sfm.extract import SEED
from services.sfm.plan import Plan

_LEAST_PHOTOS = 3


def map_photos(
    database: Path, folder: Path, scratch: Path, plan: Plan, relaxed: bool
) -> Generator[int, None, list[pycolmap.Reconstruction]]:
    """Puts photos together one by one.

    Args:
        database: With verified matches.
        folder: Of the prepared photos; colours of points are read from them.
        scratch: Empty folder for COLMAP's models.
        plan: Threads.
        relaxed: Accept weaker evidence: less parallax to begin with, fewer inliers per photo.

    Yields:
        Photos registered so far in the largest model.

    Returns:
        Models that do not connect with each other, the largest first; empty when there is none.
    """
    options = pycolmap.IncrementalPipelineOptions(
        num_threads=plan.threads, random_seed=SEED, min_model_size=_LEAST_PHOTOS
    )
    options.mapper.random_seed = options.triangulation.random_seed = SEED
    if relaxed:
        options.min_num_matches = 10
        options.mapper.init_min_num_inliers = 40
        options.mapper.init_min_tri_angle = 4.0
        options.mapper.abs_pose_min_num_inliers = 15
        options.mapper.abs_pose_min_inlier_ratio = 0.15
    registered, most = 0, 0

    def begun() -> None:
        nonlocal registered, most
        registered = 2
        most = max(most, registered)

    def grown() -> None:
        nonlocal registered, most
        registered += 1
        most = max(most, registered)

    def work(token: pycolmap.CancellationToken) -> dict[int, pycolmap.Reconstruction]:
        return dict(
            pycolmap.incremental_mapping(
                database,
                folder,
                scratch,
                options,
                initial_image_pair_callback=begun,
                next_image_callback=grown,
                cancellation_token=token,
            )
        )

    models = yield from watch("put the photos together", work, lambda: most)
    return sorted(models.values(), key=lambda model: (-model.num_reg_images(), -model.num_points3D()))
