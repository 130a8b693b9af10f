"""Refining lenses, on a synthetic scene whose lens distorts in two ways."""

from __future__ import annotations

import numpy as np
import pytest

pycolmap = pytest.importorskip("pycolmap")

from services.sfm.refine import refine_lenses  # noqa: E402

TRUTH = (1000.0, 512.0, 384.0, -0.24, 0.28)


def scene(photos: int) -> pycolmap.Reconstruction:
    """Photos seen through a lens with two radial parameters; one is not modelled yet."""
    options = pycolmap.SyntheticDatasetOptions(
        num_rigs=1,
        num_cameras_per_rig=1,
        num_frames_per_rig=photos,
        num_points3D=400,
        camera_model_id=pycolmap.CameraModelId.RADIAL,
        camera_params=TRUTH,
        camera_width=1024,
        camera_height=768,
    )
    model = pycolmap.synthesize_dataset(options)
    for camera in model.cameras.values():
        camera.model = pycolmap.CameraModelId.SIMPLE_RADIAL
        camera.params = np.array(TRUTH[:4])
    model.update_point_3d_errors()
    return model


def test_the_second_parameter_is_found():
    model = scene(8)
    before = model.compute_mean_reprojection_error()
    refined = refine_lenses(model, threads=2)
    (camera,) = refined.cameras.values()
    assert camera.model == pycolmap.CameraModelId.RADIAL
    assert np.allclose(camera.params, TRUTH, rtol=0.01)
    assert refined.compute_mean_reprojection_error() < before / 10
    (untouched,) = model.cameras.values()
    assert untouched.model == pycolmap.CameraModelId.SIMPLE_RADIAL


def test_few_photos_are_left_as_they_are():
    model = scene(4)
    assert refine_lenses(model, threads=2) is model
