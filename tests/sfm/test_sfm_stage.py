"""The whole stage on small photos whose cameras are known, and on photos that cannot work."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from PIL import ExifTags, Image

from services.common.options import SfmOptions
from services.common.stage import StageContext
from splatmill.errors import Reason, SplatmillError
from splatmill.sample import read_cameras
from tests.helpers.poses import pose_errors, read_true_poses, recovered_poses, truth_from_recovered
from tests.sfm.conftest import Run

RunSfm = Callable[..., Run]


def assert_close_to_truth(run: Run, capture: Path, count: int) -> None:
    position, degrees = pose_errors(
        recovered_poses(run.output / "sparse"), read_true_poses(capture / "cameras.json")
    )
    assert len(position) == count
    assert position.max() < 0.01, "positions, as fractions of the scene's size"
    assert degrees.max() < 1.0


def test_cameras_are_close_to_the_truth(small_run: Run, small_capture: Path):
    assert_close_to_truth(small_run, small_capture, 10)


def test_output_is_an_undistorted_model(small_run: Run):
    pycolmap = pytest.importorskip("pycolmap")
    assert sorted(path.name for path in small_run.output.iterdir()) == ["images", "sfm_report.json", "sparse"]
    model = pycolmap.Reconstruction(small_run.output / "sparse")
    assert {camera.model.name for camera in model.cameras.values()} == {"PINHOLE"}
    pictures = {path.name for path in (small_run.output / "images").iterdir()}
    assert {model.image(number).name for number in model.reg_image_ids()} == pictures
    for number in model.reg_image_ids():
        image = model.image(number)
        camera = model.camera(image.camera_id)
        with Image.open(small_run.output / "images" / image.name) as picture:
            assert picture.size == (camera.width, camera.height)


def test_points_lie_where_the_photos_show_them(small_run: Run, small_capture: Path):
    """Points of the model, moved into the true world and through the true cameras, hit their pixels."""
    pycolmap = pytest.importorskip("pycolmap")
    model = pycolmap.Reconstruction(small_run.output / "sparse")
    similarity = truth_from_recovered(
        recovered_poses(small_run.output / "sparse"), read_true_poses(small_capture / "cameras.json")
    )
    truth = read_cameras(small_capture)
    errors = []
    for number in model.reg_image_ids():
        image, camera = model.image(number), truth[model.image(number).name]
        seen = [point for point in image.points2D if point.has_point3D()]
        world = similarity.apply(np.array([model.point3D(point.point3D_id).xyz for point in seen]))
        undistorted = model.camera(image.camera_id)
        pixels = np.array([point.xy for point in seen]) * [
            camera.width / undistorted.width,
            camera.height / undistorted.height,
        ]
        errors.append(np.linalg.norm(camera.project(world) - pixels, axis=1))
    assert np.median(np.concatenate(errors)) < 2.0


def test_the_scene_stands_upright(small_run: Run, small_capture: Path):
    similarity = truth_from_recovered(
        recovered_poses(small_run.output / "sparse"), read_true_poses(small_capture / "cameras.json")
    )
    up = similarity.rotation @ [0.0, -1.0, 0.0]
    assert np.degrees(np.arccos(up[2])) < 4.0, "-y of the model is up in the true world"


def test_metrics_and_report(small_run: Run):
    metrics = small_run.result.metrics
    assert (metrics["images"], metrics["registered_images"]) == (10, 10)
    assert metrics["points"] > 500
    assert 0 < metrics["mean_reprojection_error_px"] < 1
    report = json.loads((small_run.output / "sfm_report.json").read_text())
    assert report["registered_images"] == 10
    assert report["left_out"] == []
    assert report["pairs"]["tried"] == 45
    assert set(report["seconds"]) == {"prepare", "extract", "match", "map", "undistort"}


def test_the_lens_is_found(small_run: Run, small_capture: Path):
    (camera,) = json.loads((small_run.output / "sfm_report.json").read_text())["cameras"]
    assert camera["model"] == "SIMPLE_RADIAL", "there is nothing for a second parameter to explain"
    focal, cx, cy, distortion = camera["params"]
    truth = read_cameras(small_capture)["photo_000.jpg"]
    assert focal == pytest.approx(truth.fx, rel=0.003)
    assert (cx, cy) == (truth.cx, truth.cy)
    edge = np.hypot(truth.cx, truth.cy) / truth.fx
    assert abs(distortion * edge**2) < 0.003, "the sample's lens does not distort"


def test_progress_rises_through_all_steps(small_run: Run):
    fractions = [progress.fraction for progress in small_run.progress]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] < 0.05
    assert 0.95 < fractions[-1] <= 1
    steps = list(dict.fromkeys(progress.step for progress in small_run.progress))
    assert steps == ["prepare", "extract", "match", "map", "undistort"]
    assert all(progress.eta_seconds is None or progress.eta_seconds >= 0 for progress in small_run.progress)
    assert "matched 45 of 45 pairs" in small_run.lines
    assert "registered 10 of 10 photos" in small_run.lines


def test_one_seed_one_result(small_run: Run, small_capture: Path, run_sfm: RunSfm):
    again = run_sfm(sorted(small_capture.glob("*.jpg")))
    first, second = recovered_poses(small_run.output / "sparse"), recovered_poses(again.output / "sparse")
    names = sorted(first.cam_from_world)
    extent = np.ptp(first.centers(names), axis=0).max()
    assert np.abs(first.centers(names) - second.centers(names)).max() < 1e-3 * extent


def test_turned_photos(small_capture: Path, run_sfm: RunSfm, tmp_path: Path):
    """Photos stored sideways with an orientation tag, and without, are the same to the stage."""
    for number, path in enumerate(sorted(small_capture.glob("*.jpg"))):
        with Image.open(path) as image:
            exif = image.getexif()
            exif.get_ifd(ExifTags.IFD.Exif)
            turned = image
            if number % 2:
                exif[ExifTags.Base.Orientation] = 6  # shown after a quarter turn clockwise
                turned = image.transpose(Image.Transpose.ROTATE_90)
            turned.save(tmp_path / path.name, quality=95, exif=exif)
    run = run_sfm(sorted(tmp_path.iterdir()))
    assert "turned upright or converted 5 photos" in run.lines
    assert_close_to_truth(run, small_capture, 10)
    for path in (run.output / "images").iterdir():
        with Image.open(path) as image:
            assert image.width > image.height
            assert image.getexif().get(ExifTags.Base.Orientation, 1) == 1


def test_strangers_are_left_out_by_name(
    small_capture: Path, run_sfm: RunSfm, strangers: list[Path], tmp_path: Path
):
    blank = tmp_path / "blank wall.jpg"
    Image.new("RGB", (480, 360), (90, 120, 150)).save(blank)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(strangers[1].read_bytes()[:3000])
    photos = sorted(small_capture.glob("*.jpg"))
    run = run_sfm([*photos, strangers[0], blank, broken])
    assert run.result.metrics["registered_images"] == 10
    assert run.result.metrics["images"] == 13
    log = "\n".join(run.lines)
    assert "left out: broken.jpg cannot be read" in log
    assert "left out: blank wall.jpg has too little texture" in log
    assert f"left out: {strangers[0].name} shows nothing that another photo shows" in log
    assert_close_to_truth(run, small_capture, 10)
    report = json.loads((run.output / "sfm_report.json").read_text())
    assert {item["name"] for item in report["left_out"]} == {
        "broken.jpg",
        "blank wall.jpg",
        strangers[0].name,
    }


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Photos full of detail that have nothing in common."""
    folder = tmp_path_factory.mktemp("strangers")
    paths = []
    for number in range(5):
        rng = np.random.default_rng(100 + number)
        layers = [
            np.asarray(
                Image.fromarray(rng.integers(0, 255, (rows, rows * 4 // 3, 3), np.uint8)).resize((480, 360)),
                float,
            )
            for rows in (9, 24, 60)
        ]
        path = folder / f"stranger_{number}.jpg"
        Image.fromarray(np.mean(layers, axis=0).astype(np.uint8)).save(path)
        paths.append(path)
    return paths


def test_photos_without_overlap(run_sfm: RunSfm, strangers: list[Path]):
    with pytest.raises(SplatmillError) as caught:
        run_sfm(strangers)
    assert caught.value.reason is Reason.NO_OVERLAP
    assert caught.value.remedy
    assert not caught.value.retryable


def test_blank_photos_are_named(run_sfm: RunSfm, tmp_path: Path):
    for number in range(3):
        Image.new("RGB", (320, 240), (90, 120, 110 + 40 * number)).save(tmp_path / f"wall_{number}.jpg")
    with pytest.raises(SplatmillError) as caught:
        run_sfm(sorted(tmp_path.iterdir()))
    assert caught.value.reason is Reason.NO_OVERLAP
    assert "Too little texture: wall_0.jpg, wall_1.jpg, wall_2.jpg" in caught.value.message


def test_copies_of_one_photo(small_capture: Path, run_sfm: RunSfm, tmp_path: Path):
    original = sorted(small_capture.glob("*.jpg"))[0]
    for number in range(3):
        (tmp_path / f"copy_{number}.jpg").write_bytes(original.read_bytes())
    with pytest.raises(SplatmillError) as caught:
        run_sfm(sorted(tmp_path.iterdir()))
    assert caught.value.reason is Reason.TOO_FEW_IMAGES
    assert "copy_1.jpg is a copy of copy_0.jpg" in caught.value.message


def test_one_view_saved_three_times(small_capture: Path, run_sfm: RunSfm, tmp_path: Path):
    """Different files, the same picture: they match perfectly and show no depth."""
    with Image.open(sorted(small_capture.glob("*.jpg"))[0]) as image:
        for quality in (80, 88, 95):
            image.save(tmp_path / f"quality_{quality}.jpg", quality=quality)
    with pytest.raises(SplatmillError) as caught:
        run_sfm(sorted(tmp_path.iterdir()))
    assert caught.value.reason is Reason.NO_OVERLAP
    assert "no depth" in caught.value.message


def test_sizes_and_original_resolution(small_capture: Path, run_sfm: RunSfm):
    photos = sorted(small_capture.glob("*.jpg"))[:5]
    small = run_sfm(photos, max_image_size=256)
    original = run_sfm(photos, original_resolution=True, max_image_size=256)
    for run, longest in ((small, (240, 256)), (original, (470, 490))):
        for path in (run.output / "images").iterdir():
            with Image.open(path) as image:
                assert longest[0] <= max(image.size) <= longest[1]


def test_masked_parts_give_no_features_and_go_on_as_masks(
    small_capture: Path, run_sfm: RunSfm, tmp_path: Path
):
    """A sticker on the lens: the same garbage at one place of every photo."""
    sticker = np.random.default_rng(0).integers(0, 255, (18, 24, 3), np.uint8).repeat(5, 0).repeat(5, 1)
    hidden = np.zeros((360, 480), bool)
    hidden[200:290, 60:180] = True
    for path in small_capture.glob("*.jpg"):
        with Image.open(path) as image:
            pixels = np.array(image)
        pixels[hidden] = sticker.reshape(-1, 3)
        counts = np.where(hidden, 0, 255).astype(np.uint8)
        if path.stem.endswith("3"):
            Image.fromarray(pixels).save(tmp_path / f"{path.stem}.png")
            Image.fromarray(counts).save(tmp_path / f"{path.stem}.mask.png")
        else:
            Image.fromarray(np.dstack([pixels, counts])).save(tmp_path / f"{path.stem}.png")
    run = run_sfm(sorted(tmp_path.glob("*.png")))
    assert run.result.metrics["registered_images"] == 10
    assert any("preparing 10 photos" in line for line in run.lines)
    assert any("10 photos have masks" in line for line in run.lines)
    model = pycolmap.Reconstruction(run.output / "sparse")
    for image in model.images.values():
        with Image.open(run.output / "masks" / f"{image.name}.png") as mask:
            counts = np.asarray(mask) > 0
        assert counts.shape == (image.camera.height, image.camera.width)
        assert np.isin(np.unique(mask), (0, 255)).all()
        assert 0.8 * hidden.mean() < 1 - counts.mean() < 1.4 * hidden.mean()
        seen = np.array([point.xy for point in image.points2D if point.has_point3D()]).astype(int)
        inside = (seen >= 0).all(axis=1) & (seen[:, 0] < counts.shape[1]) & (seen[:, 1] < counts.shape[0])
        x, y = seen[inside].T
        assert len(x) > 50
        assert counts[y, x].mean() > 0.98  # a feature may stand on the border


def test_sequential_and_alike_pairs(
    small_capture: Path, run_sfm: RunSfm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Shuffled names: neighbours by name are no neighbours, so photos that look alike must be found."""
    monkeypatch.setattr("services.sfm.plan._NEIGHBOURS", 1)
    monkeypatch.setattr("services.sfm.plan._ALIKE", 3)
    monkeypatch.setenv("SPLATMILL_COLMAP_EXHAUSTIVE_PHOTOS", "4")
    names = sorted(path.name for path in small_capture.glob("*.jpg"))
    shuffled = dict(zip(names, np.random.default_rng(2).permutation(names), strict=True))
    for name, other in shuffled.items():
        (tmp_path / str(other)).write_bytes((small_capture / name).read_bytes())
    document = json.loads((small_capture / "cameras.json").read_text())
    for item in document["photos"]:
        item["name"] = str(shuffled[item["name"]])
    (tmp_path / "cameras.json").write_text(json.dumps(document))
    run = run_sfm(sorted(tmp_path.glob("*.jpg")))
    report = json.loads((run.output / "sfm_report.json").read_text())
    assert report["attempts"][0]["matcher"] == "sequential"
    assert report["pairs"]["tried"] < 40
    assert_close_to_truth(run, tmp_path, 10)


def test_closing_the_stage_stops_colmap(small_capture: Path, tmp_path: Path):
    from services.sfm.stage import run  # noqa: PLC0415

    for name in ("output", "scratch"):
        (tmp_path / name).mkdir()
    (tmp_path / "input").mkdir()
    (tmp_path / "input/images").symlink_to(small_capture)
    steps = run(tmp_path / "input", tmp_path / "output", SfmOptions(), StageContext(tmp_path / "scratch"))
    for progress in steps:
        if progress.step == "match":
            break
    steps.close()
    assert list((tmp_path / "output").iterdir()) == []


def test_no_input_folder(tmp_path: Path):
    from services.sfm.stage import run  # noqa: PLC0415

    with pytest.raises(SplatmillError) as caught:
        next(run(tmp_path, tmp_path, SfmOptions(), StageContext(tmp_path)))
    assert caught.value.reason is Reason.INPUT_NOT_FOUND


def test_the_stage_does_not_import_torch():
    code = "import sys, services.sfm.stage; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("folder", "count"), [("sceaux", 11)])
def test_real_photos(real_photos: Path, run_sfm: RunSfm, folder: str, count: int):
    photos = sorted((real_photos / folder).glob("*.JPG"))
    run = run_sfm(photos)
    assert run.result.metrics["registered_images"] == run.result.metrics["images"] == count
    assert run.result.metrics["points"] > 3000
    assert run.result.metrics["mean_reprojection_error_px"] < 1.0
