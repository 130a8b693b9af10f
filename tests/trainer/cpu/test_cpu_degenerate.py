"""Input at the edge of what can be trained: a sound scene or a typed error, never numbers gone wrong."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from PIL import Image

from services.common.options import TrainingOptions
from services.common.splat_cloud import read_ply
from services.common.stage import StageContext
from services.trainer import stage
from services.trainer.backends import ChosenBackend
from services.trainer.cpu.backend import CpuBackend
from splatmill.errors import Reason, SplatmillError
from tests.helpers.colmap_writer import WrittenImage, write_images, write_points, write_scene

STEPS = 160
STRATEGIES = pytest.mark.parametrize("strategy", ["default", "mcmc"])


@pytest.fixture(autouse=True)
def cpu(monkeypatch):
    backend = CpuBackend()
    monkeypatch.setattr(stage, "choose_backend", lambda preference: ChosenBackend(backend, "cpu"))


def run(source, target, **options) -> dict:
    """Trains and answers the report, once all that was left is found to be sound."""
    target.mkdir()
    given = TrainingOptions(**{"iterations": STEPS, "max_gaussians": 500, **options})
    list(stage.run(source, target, given, StageContext(target)))
    report = json.loads((target / "training_report.json").read_text(), parse_constant=pytest.fail)
    cloud = read_ply(target / f"point_cloud/iteration_{STEPS}/point_cloud.ply")
    assert len(cloud) == report["gaussian_count"] > 0
    assert cloud.finite().all()
    assert all(math.isfinite(point["loss"]) for point in report["curve"])
    return report


def fails(reason, source, target, **options) -> None:
    with pytest.raises(SplatmillError) as caught:
        run(source, target, **options)
    assert caught.value.reason is reason
    assert caught.value.remedy
    assert not list(target.glob("point_cloud/**/*.ply"))


def improves(report: dict) -> bool:
    return report["curve"][-1]["loss"] < report["curve"][0]["loss"]


@STRATEGIES
@pytest.mark.parametrize(("photos", "points"), [(10, 1), (3, 30), (1, 30), (1, 1)])
def test_few_photos_and_few_points(tmp_path, photos, points, strategy):
    source = write_scene(tmp_path / "sfm", photos=photos, points=points)
    try:
        report = run(source, tmp_path / "out", strategy=strategy)
    except SplatmillError as error:
        # mcmc's penalty on the mean opacity is all of it for a single Gaussian, which may then fade.
        assert (error.reason, points, strategy) == (Reason.EMPTY_SCENE, 1, "mcmc")
        return
    assert improves(report) or (points, strategy) == (1, "mcmc")
    held_out = 2 if photos == 10 else 0  # with fewer than test_every photos none is
    assert (report["photos"]["train"], report["photos"]["test"]) == (photos - held_out, held_out)


@STRATEGIES
def test_cameras_in_one_place(tmp_path, strategy):
    source = write_scene(tmp_path / "sfm", photos=4, points=30)
    images = [
        WrittenImage(f"photo_{row:03d}.png", (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0), points=(1, 2))
        for row in range(4)
    ]
    write_images(source / "sparse/images.bin", images)
    assert improves(run(source, tmp_path / "out", strategy=strategy))


@STRATEGIES
@pytest.mark.parametrize("spread", [0.0, 1e-12])
def test_points_in_one_place_have_no_size_of_their_own(tmp_path, strategy, spread):
    source = write_scene(tmp_path / "sfm", photos=4, points=0)
    points = {k: ((spread * k, 0.0, 3.0), (90, 120, 150)) for k in range(1, 21)}
    write_points(source / "sparse/points3D.bin", points)
    assert improves(run(source, tmp_path / "out", strategy=strategy))


def test_points_behind_and_points_that_are_no_numbers(tmp_path):
    behind = write_scene(tmp_path / "behind", photos=4, points=10, point_depth=-4.0)
    fails(Reason.NO_POINTS, behind, tmp_path / "a")
    nowhere = write_scene(tmp_path / "nowhere", photos=4, points=0)
    points = {k: ((math.nan, 0.0, math.inf), (90, 120, 150)) for k in range(1, 21)}
    write_points(nowhere / "sparse/points3D.bin", points)
    fails(Reason.NO_POINTS, nowhere, tmp_path / "b")


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("place", ["quat", "translation"])
def test_poses_that_are_no_numbers(tmp_path, place, value):
    source = write_scene(tmp_path / "sfm", photos=4, points=30)
    images = [WrittenImage(f"photo_{k:03d}.png", (1, 0, 0, 0), (-0.1 * k, 0, 0)) for k in range(4)]
    setattr(images[2], place, (value, *getattr(images[2], place)[1:]))
    write_images(source / "sparse/images.bin", images)
    fails(Reason.INVALID_REQUEST, source, tmp_path / "out")


@STRATEGIES
@pytest.mark.parametrize("grey", [0, 128, 255])
@pytest.mark.parametrize("background", ["black", "random"])
def test_blank_photos(tmp_path, strategy, grey, background):
    """Learned as the even wall that they show; black before black may end as nothing at all."""
    source = write_scene(tmp_path / "sfm", photos=5, points=30)
    for path in (source / "images").iterdir():
        Image.fromarray(np.full((18, 24, 3), grey, np.uint8)).save(path)
    try:
        report = run(source, tmp_path / "out", strategy=strategy, background=background)
    except SplatmillError as error:
        assert error.reason is Reason.EMPTY_SCENE
        assert (grey, background) == (0, "black")
        return
    if background == "black":  # before another background each step, the loss says little
        assert report["curve"][-1]["loss"] <= report["curve"][0]["loss"]


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (200, 2)])
def test_tiny_photos(tmp_path, size):
    source = write_scene(tmp_path / "sfm", photos=10, points=30, size=size)
    assert improves(run(source, tmp_path / "out"))


@pytest.mark.parametrize("far", [1e-4, 1e4])
def test_scenes_of_any_size(tmp_path, far):
    source = write_scene(tmp_path / "sfm", photos=4, points=0, step=0.1 * far)
    generator = np.random.default_rng(0)
    points = {
        k: (tuple(far * generator.uniform((-1, -1, 2), (1, 1, 4))), (90, 120, 150)) for k in range(1, 31)
    }
    write_points(source / "sparse/points3D.bin", points)
    report = run(source, tmp_path / "out")
    assert improves(report)
