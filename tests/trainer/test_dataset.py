"""Photos and cameras as training takes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from services.common.options import TrainingOptions
from services.trainer.colmap_model import read_model
from services.trainer.config import resolve
from services.trainer.dataset import DatasetLoader, held_out_rows, load_picture, near_depth, scene_extent
from services.trainer.settings import TrainerSettings
from splatmill.errors import Reason, SplatmillError
from tests.helpers.colmap_writer import write_scene


def load(folder, device="cpu", **options):
    loader = DatasetLoader(folder, resolve(TrainingOptions(**options), TrainerSettings(), device))
    assert list(loader.load())[-1] == loader.photo_count
    return loader.dataset()


def test_every_eighth_by_name_is_held_out(tmp_path):
    dataset = load(write_scene(tmp_path, photos=17))
    assert [view.name for view in dataset.test] == ["photo_000.png", "photo_008.png", "photo_016.png"]
    assert len(dataset.train) == 14
    assert [view.name for view in dataset.train][:2] == ["photo_001.png", "photo_002.png"]


@pytest.mark.parametrize(
    ("count", "every", "rows"),
    [(7, 8, ()), (8, 8, (0,)), (9, 8, (0, 8)), (5, 0, ()), (3, 2, (0, 2)), (50, 8, tuple(range(0, 50, 8)))],
)
def test_few_photos_are_all_trained_on(count, every, rows):
    assert held_out_rows(count, every) == rows


def test_sizes_levels_and_cameras_go_together(tmp_path):
    folder = write_scene(tmp_path, photos=8, size=(640, 401))
    view = load(folder, train_image_size=400).train[0]
    assert [tuple(picture.shape) for picture in view.pictures] == [(251, 400, 3), (126, 200, 3), (63, 100, 3)]
    for camera, picture in zip(view.cameras, view.pictures, strict=True):
        assert (camera.height, camera.width) == tuple(picture.shape[:2])
        assert picture.dtype == torch.uint8
        # The same ray meets the same place of the picture, whatever its size.
        assert camera.cx / camera.width == pytest.approx(0.5)
        assert camera.fx / camera.width == pytest.approx(1.2)
        assert camera.fy / camera.height == pytest.approx(1.2 * 640 / 401)
    full = view.pictures[0].float()
    half = view.pictures[1].float()
    assert (full.mean() - half.mean()).abs() < 1.5


def test_a_gpu_takes_photos_as_they_are(tmp_path):
    view = load(write_scene(tmp_path, photos=8, size=(640, 401)), device="cuda").train[0]
    assert [tuple(picture.shape) for picture in view.pictures] == [(401, 640, 3)]


def test_small_photos_have_no_coarse_levels_and_are_not_enlarged(tmp_path):
    view = load(write_scene(tmp_path, photos=8, size=(100, 60)), train_image_size=400).train[0]
    assert [tuple(picture.shape) for picture in view.pictures] == [(60, 100, 3)]


def test_photos_of_another_size_than_the_camera_scale_it(tmp_path):
    folder = write_scene(tmp_path, photos=8, size=(120, 60))
    path = folder / "images/photo_001.png"
    with Image.open(path) as picture:
        picture.resize((60, 30)).save(path)
    camera = load(folder).train[0].cameras[0]
    assert (camera.width, camera.height, camera.fx, camera.cx) == (60, 30, pytest.approx(72), 30)


def test_extent_is_that_of_the_cameras(tmp_path):
    model = read_model(write_scene(tmp_path, photos=10, step=0.5) / "sparse")
    centers = []
    for image in model.images:
        rotation, translation = image.cam_from_world[:3, :3], image.cam_from_world[:3, 3]
        centers.append(-rotation.T @ translation)
    mean = sum(centers) / len(centers)
    assert scene_extent(model) == pytest.approx(1.1 * max(np.linalg.norm(c - mean) for c in centers))


def test_cameras_in_one_place_take_the_extent_from_the_points(tmp_path):
    model = read_model(write_scene(tmp_path, photos=4, step=0.0, point_depth=40.0) / "sparse")
    for image in model.images:
        image.cam_from_world[:3, 3] = 0
    assert scene_extent(model) == pytest.approx(0.05 * np.median(model.positions[:, 2]))


def test_one_camera_without_points_still_has_an_extent(tmp_path):
    model = read_model(write_scene(tmp_path, photos=1, points=0) / "sparse")
    assert scene_extent(model) == 1.0


def test_near_depth_is_a_share_of_the_nearest_points(tmp_path):
    model = read_model(write_scene(tmp_path, photos=3, points=200) / "sparse")
    depths = sorted(model.positions[:, 2])
    assert near_depth(model, model.images[0]) == pytest.approx(0.3 * np.percentile(depths, 1))
    few = read_model(write_scene(tmp_path / "few", photos=3, points=9) / "sparse")
    assert near_depth(few, few.images[0]) == 0


def test_a_missing_photo(tmp_path):
    folder = write_scene(tmp_path)
    (folder / "images/photo_003.png").unlink()
    with pytest.raises(SplatmillError) as caught:
        load(folder)
    assert (caught.value.reason, caught.value.field) == (Reason.INPUT_NOT_FOUND, "photo_003.png")


def test_broken_photos(tmp_path):
    good = tmp_path / "good.jpg"
    Image.effect_noise((200, 100), 80).convert("RGB").save(good)
    data = good.read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.jpg").write_bytes(b"no picture")
    for name, reason in (("cut.jpg", Reason.IMAGE_TRUNCATED), ("text.jpg", Reason.NOT_AN_IMAGE)):
        with pytest.raises(SplatmillError) as caught:
            load_picture(tmp_path, name, 64)
        assert (caught.value.reason, caught.value.field) == (reason, name)
    for name in ("../good.jpg", "/etc/passwd", "a/../../good.jpg", ""):
        with pytest.raises(SplatmillError) as caught:
            load_picture(tmp_path / "images", name, 64)
        assert caught.value.reason == Reason.BAD_FILENAME


def test_shrinking_keeps_colours_and_removes_detail_that_would_alias(tmp_path):
    stripes = np.zeros((400, 600, 3), np.uint8)
    stripes[:, ::2] = 255  # finer than the target can show
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    shrunk = np.asarray(load_picture(tmp_path, "stripes.png", 150), dtype=float)
    assert shrunk.shape == (100, 150, 3)
    assert np.abs(shrunk[:, 3:-3] - 127.5).max() < 2
    assert np.abs(shrunk - 127.5).max() < 16  # the filter is cut off at the border


def test_no_registered_photos(tmp_path):
    folder = write_scene(tmp_path)
    (folder / "sparse/images.bin").write_bytes(b"\0" * 8)
    with pytest.raises(SplatmillError) as caught:
        load(folder)
    assert caught.value.reason == Reason.TOO_FEW_REGISTERED
