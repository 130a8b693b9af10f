"""The parts of the stage that need no COLMAP run."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from services.common.options import Matcher, SfmOptions
from services.sfm import plan as planning
from services.sfm.extract import camera_groups
from services.sfm.metadata import drop_place
from services.sfm.pairs import neighbours
from services.sfm.photos import Photo, Prepared, natural, prepare
from services.sfm.progress import StageProgress
from services.sfm.settings import SfmSettings
from services.sfm.upright import upright_rotation


def photo(name: str, size: tuple[int, int] = (800, 600), camera: tuple[str, ...] = ("", "")) -> Photo:
    return Photo(name, name, *size, camera)


def finish(steps: Generator[int, None, Prepared]) -> Prepared:
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


# Prepared photos.


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("in", "out", "masks"):
        (tmp_path / name).mkdir()
    return tmp_path / "in", tmp_path / "out"


def picture(seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8))


def test_odd_kinds_of_pictures_become_plain_ones(folders: tuple[Path, Path]):
    source, target = folders
    deep = np.linspace(0, 65535, 96 * 64).reshape(64, 96).astype(np.uint16)
    Image.fromarray(deep).save(source / "deep.png")
    picture(1).convert("L").save(source / "grey.jpg")
    picture(2).convert("CMYK").save(source / "print.jpg")
    picture(3).save(source / "modern.webp")
    clear = picture(4).convert("RGBA")
    clear.putalpha(0)
    clear.save(source / "clear.png")
    clear.putalpha(255)
    clear.save(source / "opaque.png")
    picture(5).save(source / "my photo.jpeg")
    prepared = finish(prepare(source, target, target.parent / "masks"))
    names = {item.original: item.name for item in prepared.photos}
    assert names == {
        "deep.png": "deep.png",
        "grey.jpg": "grey.jpg",
        "modern.webp": "modern.webp.jpg",
        "my photo.jpeg": "my_photo.jpeg",
        "opaque.png": "opaque.png",
        "print.jpg": "print.jpg",
    }
    for name in names.values():
        with Image.open(target / name) as image:
            assert (image.mode, image.size) == ("RGB", (96, 64))
    assert (target / "my_photo.jpeg").is_symlink(), "a plain photo is not written anew"
    assert prepared.rewritten == 5
    with Image.open(target / "deep.png") as image:
        assert np.ptp(np.asarray(image)) > 250, "16 bits are scaled, not cut off"
    assert [(item.name, item.reason) for item in prepared.left_out] == [
        ("clear.png", "cannot be read (its mask leaves nothing of it)")
    ]
    assert not any(photo.masked for photo in prepared.photos)


def test_pixels_that_are_no_numbers_are_black(folders: tuple[Path, Path]):
    source, target = folders
    values = np.linspace(1, 200, 96 * 64, dtype=np.float32).reshape(64, 96)
    values[:8], values[8:16], values[16:24] = np.nan, np.inf, -np.inf
    for number in range(3):
        values[40, number] = 0
        Image.fromarray(values).save(source / f"{number}.tiff")
    prepared = finish(prepare(source, target, target.parent / "masks"))
    with Image.open(target / prepared.photos[2].name) as image:
        grey = np.asarray(image.convert("L")).astype(float)
    assert grey[:22].max() < 12
    assert np.abs(grey[44:] - values[44:]).max() < 6


def test_masks_come_from_alpha_and_from_files_beside(folders: tuple[Path, Path]):
    source, target = folders
    masks = target.parent / "masks"
    left = np.zeros((64, 96), np.uint8)
    left[:, :48] = 255
    top = np.zeros((64, 96), np.uint8)
    top[:32] = 200
    clear = picture(1)
    clear.putalpha(Image.fromarray(left))
    clear.save(source / "alpha.png")
    clear.save(source / "both.webp", lossless=True, quality=0)
    Image.fromarray(top).save(source / "both.mask.png")
    picture(2).save(source / "plain.jpg")
    Image.fromarray(top).resize((48, 32)).save(source / "PLAIN.jpg.MASK.png")
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    picture(3, (64, 96)).save(source / "turned.jpg", exif=turned)
    Image.fromarray(top).save(source / "turned.mask.png")
    Image.fromarray(top).save(source / "nobody.mask.png")
    prepared = finish(prepare(source, target, masks))
    expected = {
        "alpha.png": left > 0,
        "both.webp.jpg": (left > 0) & (top > 0),
        "plain.jpg": top > 0,
        "turned.jpg": top > 0,
    }
    assert {photo.name: photo.masked for photo in prepared.photos} == dict.fromkeys(expected, True)
    for name, counts in expected.items():
        with Image.open(masks / f"{name}.png") as mask:
            assert (np.asarray(mask) == np.where(counts, 255, 0)).all(), name
    assert [(item.name, item.reason) for item in prepared.left_out] == [
        ("nobody.mask.png", "is a mask of no photo")
    ]
    assert (target / "plain.jpg").is_symlink(), "a mask beside it leaves a photo as it is"
    with Image.open(target / "alpha.png") as image:
        assert (np.asarray(image) == np.asarray(clear.convert("RGB"))).all(), "no black is mixed into borders"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright(folders: tuple[Path, Path], orientation: int):
    source, target = folders
    shown = Image.fromarray(
        np.kron(np.arange(1, 7, dtype=np.uint8).reshape(2, 3) * 40, np.ones((32, 32), np.uint8))
    )
    stored_as = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    for number in range(3):
        stored = shown.convert("RGB") if stored_as is None else shown.convert("RGB").transpose(stored_as)
        stored.putpixel((0, 0), (number, 0, 0))
        stored.save(source / f"{number}.png", exif=exif)
    prepared = finish(prepare(source, target, target.parent / "masks"))
    assert {(item.width, item.height) for item in prepared.photos} == {(96, 64)}
    with Image.open(target / "1.png") as image:
        assert image.getexif().get(ExifTags.Base.Orientation, 1) == 1
        middle = np.asarray(image)[16::32, 16::32, 1]
    assert middle.tolist() == np.asarray(shown)[16::32, 16::32].tolist()


def test_natural_order():
    names = ["photo_10.jpg", "photo_2.jpg", "Photo_1.jpg", "a.jpg", "2.jpg"]
    assert sorted(names, key=natural) == ["2.jpg", "a.jpg", "Photo_1.jpg", "photo_2.jpg", "photo_10.jpg"]


# What leaves with a picture.


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_place_is_dropped_and_nothing_else(tmp_path: Path, suffix: str):
    path = tmp_path / f"holiday{suffix}"
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 28
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (52.0, 5.0, 1.0)
    picture(7).save(path, exif=exif, **({"xmp": b"<x>GPSLatitude</x>"} if suffix == ".jpg" else {}))
    with Image.open(path) as image:
        assert image.getexif().get_ifd(ExifTags.IFD.GPSInfo)
        before = np.asarray(image)
    drop_place(path)
    assert b"GPSLatitude" not in path.read_bytes()
    with Image.open(path) as image:
        cleaned = image.getexif()
        assert not cleaned.get_ifd(ExifTags.IFD.GPSInfo)
        assert cleaned[ExifTags.Base.Make] == "Maker"
        assert cleaned.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] == 28
        assert (np.asarray(image) == before).all()


def test_a_picture_without_place_is_not_touched(tmp_path: Path):
    path = tmp_path / "indoors.jpg"
    picture(8).save(path)
    before = path.read_bytes()
    drop_place(path)
    assert path.read_bytes() == before


# Decisions.


def test_cameras_are_shared_by_size_and_lens():
    phone, zoomed = ("Maker", "Phone", "4.2", "26"), ("Maker", "Phone", "9.0", "52")
    photos = [
        photo("a", camera=phone),
        photo("b", camera=phone),
        photo("c", camera=zoomed),
        photo("d", size=(600, 800), camera=phone),
        photo("e"),
        photo("f"),
    ]
    assert sorted(camera_groups(photos)) == [["a", "b"], ["c"], ["d"], ["e", "f"]]


def test_neighbours_reach_far_and_thin():
    names = [f"{number:03d}" for number in range(100)]
    pairs = neighbours(names, overlap=4)
    assert {(names[10], names[10 + step]) for step in (1, 2, 3, 4, 8)} <= pairs
    assert (names[10], names[15]) not in pairs
    assert all(first < second for first, second in pairs)


def test_plan_without_gpu_saves_time_with_many_photos(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(planning, "gpu_available", lambda: False)
    settings = SfmSettings()
    few = planning.make_plan([photo(str(n), (4000, 3000)) for n in range(8)], SfmOptions(), settings)
    many = planning.make_plan([photo(str(n), (4000, 3000)) for n in range(60)], SfmOptions(), settings)
    assert few.double_size and not many.double_size
    assert few.max_features > many.max_features
    assert many.matcher is Matcher.EXHAUSTIVE
    crowd = planning.make_plan([photo(str(n)) for n in range(150)], SfmOptions(), settings)
    assert crowd.matcher is Matcher.SEQUENTIAL and crowd.alike > 0
    asked = SfmOptions(max_features=777, matcher=Matcher.SEQUENTIAL, original_resolution=True)
    plan = planning.make_plan([photo(str(n)) for n in range(8)], asked, settings)
    assert (plan.max_features, plan.matcher, plan.alike) == (777, Matcher.SEQUENTIAL, 0)
    assert plan.undistorted_size == -1


def test_plan_with_gpu_takes_what_the_setting_allows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(planning, "gpu_available", lambda: True)
    plan = planning.make_plan([photo(str(n), (4000, 3000)) for n in range(60)], SfmOptions(), SfmSettings())
    assert plan.max_features == 16384
    assert plan.double_size


def test_settings_have_the_documented_defaults_and_prefix(monkeypatch: pytest.MonkeyPatch):
    settings = SfmSettings()
    assert (settings.max_image_size, settings.colmap_max_features, settings.colmap_num_threads) == (
        1600,
        16384,
        8,
    )
    assert settings.sfm_port == 50052
    monkeypatch.setenv("SPLATMILL_COLMAP_NUM_THREADS", "3")
    assert SfmSettings().colmap_num_threads == 3


# Progress.


def test_progress_never_falls_even_when_work_is_added():
    clock = iter(float(tick) for tick in range(1000))
    progress = StageProgress({"a": 1.0, "b": 3.0}, clock=lambda: next(clock))
    fractions = [progress.at("a", done, 10).fraction for done in range(11)]
    assert fractions[-1] == pytest.approx(0.25, abs=0.01)
    fractions += [progress.at("b", done, 10).fraction for done in range(11)]
    progress.replan({"a": 1.0, "c": 1.0})
    fractions += [progress.at("a", 0, 1).fraction, progress.at("c", 1, 1, "done").fraction]
    assert fractions == sorted(fractions)
    assert fractions[-1] < 1


def test_eta_follows_the_pace():
    now = [0.0]
    progress = StageProgress({"a": 1.0}, clock=lambda: now[0])
    assert progress.at("a", 0, 100).eta_seconds is None
    now[0] = 50.0
    assert progress.at("a", 50, 100).eta_seconds == pytest.approx(50.0, rel=0.03)


# Up.


def rotation(azimuth: float, elevation: float, roll: float = 0.0) -> np.ndarray:
    """cam_from_world of a camera that looks inwards; the world's up is +z."""
    from splatmill.sample import orbit_camera  # noqa: PLC0415

    return orbit_camera(azimuth, elevation, roll=roll).cam_from_world[:3, :3]


@pytest.mark.parametrize(
    "cameras",
    [
        [(a, 30.0, 0.0) for a in range(0, 360, 20)],
        [(a, 35.0, 0.0) for a in range(-70, 71, 10)],
        [(a, 4.0, r) for a, r in zip(range(-20, 21, 4), (1, -2, 0, 3, -1, 2, 0, -3, 1, -2, 1), strict=True)],
    ],
    ids=["all around, looking down", "an arc, looking down", "a facade, by hand"],
)
def test_up_is_found(cameras: list[tuple[float, float, float]]):
    matrices = np.stack([rotation(*camera) for camera in cameras])
    # The world as structure from motion leaves it: turned at random.
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    upright = upright_rotation(matrices @ turn)
    up = upright @ turn.T @ [0.0, 0.0, 1.0]
    assert np.degrees(np.arccos(-up[1])) < 5.0
    assert np.linalg.det(upright) == pytest.approx(1.0)


def test_straight_down_does_not_break():
    matrices = np.stack([np.diag([1.0, -1.0, -1.0])] * 3)
    upright = upright_rotation(matrices)
    assert np.allclose(upright @ upright.T, np.eye(3))
