"""The sample: its geometry must be exact, since other tests take it for the truth."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from splatmill.errors import Reason, SplatmillError
from splatmill.sample import capture_path, orbit_camera, read_cameras, render_view, write_capture
from splatmill.sample.camera import FOCAL_LENGTH_35MM, SampleCamera
from splatmill.sample.scene import SCENE_SIZE, Scene, build_scene
from splatmill.sample.shapes import Room


@pytest.fixture(scope="module")
def scene() -> Scene:
    return build_scene(0)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("capture")
    write_capture(directory, photos=4, width=160, height=120)
    return directory


def test_camera_looks_where_it_is_told():
    target = np.array([0.5, -0.3, 1.0])
    camera = orbit_camera(37.0, 25.0, distance=6.0, look_at=target)
    assert np.allclose(camera.project(target[None]), [[camera.cx, camera.cy]])
    assert np.isclose(np.linalg.norm(camera.position - target), 6.0)
    rotation = camera.cam_from_world[:3, :3]
    assert np.allclose(rotation @ rotation.T, np.eye(3)) and np.isclose(np.linalg.det(rotation), 1.0)
    above = camera.project(target[None] + [[0, 0, 0.5]])
    assert above[0, 1] < camera.cy, "up in the world is up in the picture"
    assert camera.position[0] > 0, "a positive azimuth stands to the right"


def test_few_photos_make_an_arc_and_many_go_around():
    def azimuths(photos: int) -> np.ndarray:
        positions = np.array([camera.position for camera in capture_path(photos, 64, 48, seed=0)])
        return np.degrees(np.arctan2(positions[:, 0], -positions[:, 1]))

    assert np.ptp(azimuths(6)) < 100
    low = np.sort(azimuths(30)[:18])
    assert np.diff(low, append=low[0] + 360).max() < 26


def _blob(camera: SampleCamera, center: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Centroid of the pixels near a projected point that have a colour, [2] in pixels."""
    picture = render_view(camera).astype(np.float32)
    x, y = camera.project(center[None])[0]
    rows, columns = np.mgrid[0 : camera.height, 0 : camera.width] + 0.5
    near = np.hypot(columns - x, rows - y) < 0.2 / 7 * camera.fx
    hits = near & (np.abs(picture - colour).max(axis=2) < 45)
    assert hits.sum() > 20
    return np.array([columns[hits].mean(), rows[hits].mean()])


def test_a_known_point_appears_where_it_projects():
    """The orange is a ball of radius 0.27 at a known place: its disc must be centred there."""
    center = np.array([3.15, -0.62, 0.27])
    for azimuth, elevation in ((60.0, 40.0), (95.0, 50.0)):
        camera = orbit_camera(azimuth, elevation, width=640, height=480)
        found = _blob(camera, center, np.array([225.0, 140.0, 45.0]))
        expected = camera.project(center[None])[0]
        assert np.linalg.norm(found - expected) < 3.0


def test_two_views_of_a_point_have_the_same_colour():
    """Nothing depends on the direction of view: floor points look alike from everywhere."""
    cameras = [orbit_camera(azimuth, 42.0, distance=11.0, width=640, height=480) for azimuth in (-8.0, 8.0)]
    pictures = [render_view(camera).astype(np.float32) for camera in cameras]
    grid = np.stack(np.meshgrid(np.linspace(-2.4, 2.4, 60), np.linspace(-4.3, -3.6, 24)), axis=-1).reshape(
        -1, 2
    )
    points = np.column_stack([grid, np.zeros(len(grid))])
    seen = [
        _smooth(picture)[tuple((camera.project(points)[:, ::-1]).astype(int).T)]
        for camera, picture in zip(cameras, pictures, strict=True)
    ]
    difference = np.abs(seen[0] - seen[1]).mean(axis=1)
    contrast = np.abs(seen[0] - np.roll(seen[1], 7, axis=0)).mean()
    assert np.median(difference) < 9
    assert np.median(difference) < contrast / 3, "and not merely because everything looks alike"


def _smooth(picture: np.ndarray) -> np.ndarray:
    """3 x 3 means: neighbouring pixels share texture detail that a shifted grid cuts elsewhere."""
    padded = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = picture.shape[:2]
    return sum(padded[i : i + height, j : j + width] for i in range(3) for j in range(3)) / 9


def test_surfaces_and_rays_agree(scene: Scene):
    """For every face of every shape: uv -> point -> uv is the identity, and a ray hits that point."""
    rng = np.random.default_rng(3)
    for shape in scene.shapes:
        for face in range(len(shape.face_sizes)):
            middle_is_covered = isinstance(shape, Room) and face == 1  # by the mat
            low, high = (0.1, 0.25) if middle_is_covered else (0.3, 0.7)
            u, v = rng.uniform(low, high, size=(2, 50)).astype(np.float32)
            points, normals = shape.surface(face, u, v)
            back_face, back_u, back_v = shape.texture_coordinates(points)
            assert (back_face == face).all()
            assert np.allclose(back_u, u, atol=2e-3) and np.allclose(back_v, v, atol=2e-3)
            distance = shape.intersect(
                (points + normals * 0.25).astype(np.float32), (-normals).astype(np.float32)
            )
            assert np.allclose(distance, 0.25, atol=2e-3)


def test_every_ray_ends_somewhere_and_pictures_are_rich():
    picture = render_view(orbit_camera(10.0, 22.0, width=320, height=240))
    assert picture.std() > 30
    quantised = (picture // 32).reshape(-1, 3)
    assert len(np.unique(quantised, axis=0)) > 60
    assert (picture.max(axis=2) == 255).mean() < 0.05, "highlights are not burnt out"


def test_capture_is_what_it_says(capture: Path):
    document = json.loads((capture / "cameras.json").read_text())
    assert document["scene_size"] == SCENE_SIZE
    assert [photo["name"] for photo in document["photos"]] == [f"photo_{i:03d}.jpg" for i in range(4)]
    cameras = read_cameras(capture)
    assert sorted(path.name for path in capture.iterdir()) == ["cameras.json", *cameras]
    for name, camera in cameras.items():
        with Image.open(capture / name) as image:
            assert image.size == (camera.width, camera.height) == (160, 120)
            decoded = np.asarray(image, dtype=np.float32)
        assert np.abs(decoded - render_view(camera)).mean() < 4, "the listed camera renders the stored photo"


def test_exif_tells_the_true_focal_length(capture: Path):
    camera = read_cameras(capture)["photo_000.jpg"]
    with Image.open(capture / "photo_000.jpg") as image:
        exif = image.getexif()
        details = exif.get_ifd(ExifTags.IFD.Exif)
    assert exif[ExifTags.Base.Make] and exif[ExifTags.Base.Model]
    assert float(details[ExifTags.Base.FocalLength]) > 0
    assert details[ExifTags.Base.FocalLengthIn35mmFilm] == FOCAL_LENGTH_35MM
    assert np.isclose(camera.fx, FOCAL_LENGTH_35MM / np.hypot(36, 24) * np.hypot(160, 120))


def test_colmap_reads_the_true_focal_length(capture: Path):
    pycolmap = pytest.importorskip("pycolmap")
    read = pycolmap.infer_camera_from_image(capture / "photo_000.jpg")
    truth = read_cameras(capture)["photo_000.jpg"]
    assert read.has_prior_focal_length
    assert abs(read.mean_focal_length() / truth.fx - 1) < 0.01


def test_same_seed_same_photos(capture: Path, tmp_path: Path):
    build_scene.cache_clear()
    reports: list[tuple[int, int]] = []
    write_capture(
        tmp_path / "again", 4, 160, 120, on_progress=lambda done, total: reports.append((done, total))
    )
    assert reports == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def digest(folder: Path) -> list[str]:
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())]

    assert digest(tmp_path / "again") == digest(capture)
    write_capture(tmp_path / "other", 4, 160, 120, seed=1)
    assert not set(digest(tmp_path / "other")) & set(digest(capture))


def test_too_little_is_refused(tmp_path: Path):
    with pytest.raises(SplatmillError, match="at least 2") as caught:
        write_capture(tmp_path / "none", photos=1)
    assert caught.value.reason is Reason.INVALID_OPTION
    assert not (tmp_path / "none").exists()
