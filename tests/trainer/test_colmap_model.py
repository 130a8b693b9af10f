"""The reader of COLMAP models, against bytes written by hand and against COLMAP itself."""

from __future__ import annotations

import math

import numpy as np
import pytest

from services.trainer.colmap_model import read_model
from splatmill.errors import Reason, SplatmillError
from tests.helpers.colmap_writer import WrittenImage, write_cameras, write_images, write_points

HALF = math.sqrt(0.5)


@pytest.fixture
def folder(tmp_path):
    write_cameras(tmp_path / "cameras.bin", {
        3: (0, 64, 48, (50.0, 32.0, 24.0)),
        7: (1, 100, 80, (90.0, 91.0, 50.5, 40.5)),
    })  # fmt: skip
    write_images(tmp_path / "images.bin", [
        WrittenImage("b.jpg", (2 * HALF, 0.0, 0.0, 2 * HALF), (1.0, 2.0, 3.0), 7, (20, -1, 10)),
        WrittenImage("a/ä.jpg", (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 3),
    ])  # fmt: skip
    write_points(tmp_path / "points3D.bin", {
        10: ((1.0, 2.0, 3.0), (255, 0, 7)),
        20: ((4.0, 5.0, 6.0), (1, 2, 3)),
    })  # fmt: skip
    return tmp_path


def test_reads_what_was_written(folder):
    model = read_model(folder)
    assert [image.name for image in model.images] == ["a/ä.jpg", "b.jpg"]
    simple, full = model.cameras[3], model.cameras[7]
    assert (simple.fx, simple.fy, simple.cx, simple.cy) == (50.0, 50.0, 32.0, 24.0)
    assert (full.width, full.height, full.fx, full.fy, full.cx, full.cy) == (100, 80, 90.0, 91.0, 50.5, 40.5)
    turned = model.images[1].cam_from_world
    # A quarter turn about z sends x to y.
    assert np.allclose(turned @ [1, 0, 0, 1], [1, 3, 3, 1])
    assert model.positions[model.images[1].point_rows].tolist() == [[4, 5, 6], [1, 2, 3]]
    assert model.colors.tolist() == [[255, 0, 7], [1, 2, 3]]


def test_points_that_are_no_numbers_are_left_out(folder):
    write_points(folder / "points3D.bin", {
        10: ((1.0, float("nan"), 3.0), (0, 0, 0)),
        20: ((4.0, 5.0, 6.0), (1, 2, 3)),
    })  # fmt: skip
    model = read_model(folder)
    assert model.positions.tolist() == [[4, 5, 6]]
    assert model.images[1].point_rows.tolist() == [0]


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin"])
def test_missing_and_cut_off_files(folder, name):
    whole = (folder / name).read_bytes()
    for size in (0, 7, 8, 20, len(whole) - 1):
        (folder / name).write_bytes(whole[:size])
        with pytest.raises(SplatmillError) as caught:
            read_model(folder)
        assert caught.value.reason == Reason.INVALID_REQUEST
        assert name in caught.value.message
    (folder / name).unlink()
    with pytest.raises(SplatmillError) as caught:
        read_model(folder)
    assert caught.value.reason == Reason.INPUT_NOT_FOUND


def test_an_absurd_count_costs_no_memory(folder):
    (folder / "points3D.bin").write_bytes(b"\xff" * 8 + b"\0" * 100)
    with pytest.raises(SplatmillError, match="cut off"):
        read_model(folder)


def test_distortion_is_refused(folder):
    write_cameras(folder / "cameras.bin", {7: (4, 100, 80, (90.0, 91.0, 50.0, 40.0, 0.1, 0.0, 0.0, 0.0))})
    with pytest.raises(SplatmillError, match="distortion"):
        read_model(folder)


def test_an_image_of_an_unknown_camera_is_refused(folder):
    write_cameras(folder / "cameras.bin", {3: (0, 64, 48, (50.0, 32.0, 24.0))})
    with pytest.raises(SplatmillError, match="camera 7"):
        read_model(folder)


def test_agrees_with_colmap(tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_frames_per_rig, options.num_points3D = 1, 5, 60
    options.camera_model_id = pycolmap.CameraModelId.PINHOLE
    options.camera_params = [1280.0, 1290.0, 512.0, 384.0]
    truth = pycolmap.synthesize_dataset(options)
    truth.write(tmp_path)
    model = read_model(tmp_path)
    assert len(model.images) == truth.num_reg_images() == 5
    by_name = {image.name: image for image in truth.images.values()}
    for image in model.images:
        expected = by_name[image.name]
        assert np.allclose(image.cam_from_world[:3], expected.cam_from_world().matrix())
        seen = [truth.points3D[p.point3D_id].xyz for p in expected.points2D if p.has_point3D()]
        assert np.allclose(model.positions[image.point_rows], seen)
        camera = model.cameras[image.camera_id]
        assert [camera.fx, camera.fy, camera.cx, camera.cy] == list(expected.camera.params)
    assert len(model.positions) == 60
