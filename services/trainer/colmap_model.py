"""Reads a COLMAP model in its binary form without COLMAP.

The layout is that of COLMAP's documentation, "Output format": little-endian records of
cameras, images and points, each file led by a count. Only cameras without distortion are
read: the photos have been undistorted before.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from splatmill.errors import Reason, SplatmillError

_SIMPLE_PINHOLE, _PINHOLE = 0, 1
_NO_POINT = -1
_LONGEST_NAME = 4096

_REMEDY = "Run structure from motion again."


@dataclass(frozen=True)
class ModelCamera:
    """Intrinsics of a pinhole camera in pixels; pixel (0, 0)'s centre is at (0.5, 0.5)."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float


@dataclass(frozen=True)
class ModelImage:
    """A registered photo."""

    name: str
    camera_id: int
    cam_from_world: NDArray[np.float64]  # [4, 4], rigid
    point_rows: NDArray[np.int64]  # rows of the model's points that this photo sees


@dataclass(frozen=True)
class ColmapModel:
    """Cameras, photos and points of one reconstruction."""

    cameras: dict[int, ModelCamera]
    images: tuple[ModelImage, ...]
    """Sorted by name."""
    positions: NDArray[np.float64]  # [N, 3], world
    colors: NDArray[np.uint8]  # [N, 3], RGB


class _Reader:
    """Reads records off a file that may be cut off."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._at = 0
        try:
            self._data = path.read_bytes()
        except FileNotFoundError:
            raise SplatmillError(
                Reason.INPUT_NOT_FOUND,
                f"The reconstruction has no file sparse/{path.name}.",
                _REMEDY,
                field=path.name,
            ) from None

    def take(self, layout: str) -> tuple[int | float, ...]:
        """The next values; ``layout`` as of struct, little-endian."""
        size = struct.calcsize("<" + layout)
        if self._at + size > len(self._data):
            raise self.broken("it is cut off")
        values = struct.unpack_from("<" + layout, self._data, self._at)
        self._at += size
        return values

    def count(self, smallest_record: int) -> int:
        """A number of records, checked against what the file can hold."""
        (count,) = self.take("Q")
        if count * smallest_record > len(self._data) - self._at:
            raise self.broken("it is cut off")
        return int(count)

    def array(self, dtype: np.dtype[np.void], count: int) -> NDArray[np.void]:
        """The next ``count`` records."""
        size = dtype.itemsize * count
        if self._at + size > len(self._data):
            raise self.broken("it is cut off")
        records = np.frombuffer(self._data, dtype, count, self._at)
        self._at += size
        return records

    def name(self) -> str:
        """A name up to its zero byte."""
        end = self._data.find(b"\0", self._at, self._at + _LONGEST_NAME)
        if end < 0:
            raise self.broken("a photo's name has no end")
        text = self._data[self._at : end].decode("utf-8", "surrogateescape")
        self._at = end + 1
        return text

    def skip(self, size: int) -> None:
        """Passes over ``size`` bytes."""
        if self._at + size > len(self._data):
            raise self.broken("it is cut off")
        self._at += size

    def broken(self, why: str) -> SplatmillError:
        """The error for a file that cannot be read."""
        return SplatmillError(
            Reason.INVALID_REQUEST,
            f"sparse/{self._name} cannot be read as a COLMAP model: {why}.",
            _REMEDY,
            field=self._name,
        )


def read_model(folder: Path) -> ColmapModel:
    """Reads ``cameras.bin``, ``images.bin`` and ``points3D.bin``.

    Args:
        folder: Where they lie.

    Returns:
        The model; images sorted by name.

    Raises:
        SplatmillError: INPUT_NOT_FOUND without a file, INVALID_REQUEST for one that is
            broken, or for cameras with distortion.
    """
    cameras = _read_cameras(_Reader(folder / "cameras.bin"))
    positions, colors, row_of_point = _read_points(_Reader(folder / "points3D.bin"))
    images = _read_images(_Reader(folder / "images.bin"), cameras, row_of_point)
    return ColmapModel(cameras, images, positions, colors)


def _read_cameras(reader: _Reader) -> dict[int, ModelCamera]:
    cameras = {}
    for _ in range(reader.count(smallest_record=48)):
        camera_id, model, width, height = (int(value) for value in reader.take("iiQQ"))
        if model == _SIMPLE_PINHOLE:
            f, cx, cy = reader.take("3d")
            fx = fy = f
        elif model == _PINHOLE:
            fx, fy, cx, cy = reader.take("4d")
        else:
            raise reader.broken(f"camera {camera_id} has distortion (COLMAP's camera model {model})")
        if not (fx > 0 and fy > 0 and width > 0 and height > 0):
            raise reader.broken(f"camera {camera_id} has no size or no focal length")
        cameras[camera_id] = ModelCamera(width, height, fx, fy, cx, cy)
    return cameras


def _read_images(
    reader: _Reader, cameras: dict[int, ModelCamera], row_of_point: dict[int, int]
) -> tuple[ModelImage, ...]:
    point2d = np.dtype([("xy", "<f8", 2), ("point", "<i8")])
    images = []
    for _ in range(reader.count(smallest_record=73)):
        _, *pose, camera = reader.take("i7di")
        name, camera_id = reader.name(), int(camera)
        seen = reader.array(point2d, reader.count(smallest_record=24))["point"]
        if camera_id not in cameras:
            raise reader.broken(f"{name} names camera {camera_id}, which is not there")
        if not np.isfinite(pose).all() or not any(pose[:4]):
            raise reader.broken(f"the pose of {name} is no number")
        rows = [row_of_point[point] for point in seen[seen != _NO_POINT].tolist() if point in row_of_point]
        images.append(
            ModelImage(name, camera_id, _rigid(pose[:4], pose[4:]), np.asarray(rows, dtype=np.int64))
        )
    return tuple(sorted(images, key=lambda image: image.name))


def _read_points(
    reader: _Reader,
) -> tuple[NDArray[np.float64], NDArray[np.uint8], dict[int, int]]:
    """Positions, colours, and the row of each point's id; points that are no numbers are left out."""
    positions: list[tuple[float, ...]] = []
    colors: list[tuple[float, ...]] = []
    row_of_point: dict[int, int] = {}
    for _ in range(reader.count(smallest_record=51)):
        point, x, y, z, red, green, blue, _, track = reader.take("Q3d3BdQ")
        reader.skip(int(track) * 8)
        if not math.isfinite(x + y + z):
            continue
        row_of_point[int(point)] = len(positions)
        positions.append((x, y, z))
        colors.append((red, green, blue))
    return (
        np.asarray(positions, dtype=np.float64).reshape(-1, 3),
        np.asarray(colors, dtype=np.uint8).reshape(-1, 3),
        row_of_point,
    )


def _rigid(quat: list[float], translation: list[float]) -> NDArray[np.float64]:
    """[4, 4] matrix of a rotation as quaternion wxyz and a translation."""
    w, x, y, z = np.asarray(quat) / np.linalg.norm(quat)
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = translation
    return matrix
