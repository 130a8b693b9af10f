"""A better lens model for cameras with many photos, once their poses are known.

The mapper starts with one distortion parameter, since more can run wild while there are
few points. Real lenses need a second one at the edges of the picture.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pycolmap
from numpy.typing import NDArray

_ENOUGH_PHOTOS = 5  # of one camera, so that its second parameter is held by many points
_MOST_ROUNDS = 30
_LEAST_GAIN = 0.99


def refine_lenses(model: pycolmap.Reconstruction, threads: int) -> pycolmap.Reconstruction:
    """Gives cameras with enough photos a second radial parameter and adjusts everything once more.

    Args:
        model: Of SIMPLE_RADIAL cameras; left unchanged.
        threads: Threads to use.

    Returns:
        The refined model, or the one given when refining does not lower the error by 1 % or
        leaves a lens that folds the picture over itself.
    """
    photos = Counter(model.image(number).camera_id for number in model.reg_image_ids())
    chosen = [camera for camera, count in photos.items() if count >= _ENOUGH_PHOTOS]
    if not chosen:
        return model
    refined = pycolmap.Reconstruction(model)
    for number in chosen:
        camera = refined.camera(number)
        params = camera.params.copy()
        camera.model = pycolmap.CameraModelId.RADIAL
        camera.params = [*params, 0.0]
    _adjust(refined, threads)
    refined.update_point_3d_errors()
    model.update_point_3d_errors()
    worth = _LEAST_GAIN * model.compute_mean_reprojection_error()
    better = refined.compute_mean_reprojection_error() < worth
    sound = all(_unfolded(refined.camera(number)) for number in chosen)
    return refined if better and sound else model


def _adjust(model: pycolmap.Reconstruction, threads: int) -> None:
    """Bundle adjustment of all poses, points and lenses, in place."""
    config = pycolmap.BundleAdjustmentConfig()
    for number in model.reg_image_ids():
        config.add_image(number)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    options = pycolmap.BundleAdjustmentOptions(print_summary=False)
    options.ceres.solver_options.num_threads = threads
    options.ceres.solver_options.max_num_iterations = _MOST_ROUNDS
    pycolmap.create_default_bundle_adjuster(options, config, model).solve()


def _unfolded(camera: pycolmap.Camera) -> bool:
    """Whether r (1 + k1 r^2 + k2 r^4) grows all the way to the picture's corners."""
    focal, cx, cy, k1, k2 = camera.params
    corner = np.hypot(max(cx, camera.width - cx), max(cy, camera.height - cy)) / focal
    squares: NDArray[np.float64] = np.linspace(0, corner, 64) ** 2
    return bool(focal > 0 and (1 + 3 * k1 * squares + 5 * k2 * squares**2 > 0).all())
