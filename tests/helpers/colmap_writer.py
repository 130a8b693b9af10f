"""Writes small COLMAP models and their photos for tests, byte by byte after COLMAP's documentation."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image


@dataclass
class WrittenImage:
    name: str
    quat: tuple[float, float, float, float]  # wxyz, cam from world
    translation: tuple[float, float, float]
    camera_id: int = 1
    points: tuple[int, ...] = ()  # ids; -1 where a feature has no point


def write_cameras(path: Path, cameras: dict[int, tuple[int, int, int, tuple[float, ...]]]) -> None:
    """``cameras``: by id, (model, width, height, parameters)."""
    data = struct.pack("<Q", len(cameras))
    for camera_id, (model, width, height, parameters) in cameras.items():
        data += struct.pack(f"<iiQQ{len(parameters)}d", camera_id, model, width, height, *parameters)
    path.write_bytes(data)


def write_images(path: Path, images: list[WrittenImage]) -> None:
    data = bytearray(struct.pack("<Q", len(images)))
    for row, image in enumerate(images, start=1):
        data += struct.pack("<i7di", row, *image.quat, *image.translation, image.camera_id)
        data += image.name.encode() + b"\0" + struct.pack("<Q", len(image.points))
        for k, point in enumerate(image.points):
            data += struct.pack("<ddq", 1.5 * k, 2.5 * k, point)
    path.write_bytes(data)


def write_points(path: Path, points: dict[int, tuple[tuple[float, ...], tuple[int, ...]]]) -> None:
    """``points``: by id, (position, RGB); each with a track of two."""
    data = bytearray(struct.pack("<Q", len(points)))
    for point, (position, color) in points.items():
        data += struct.pack("<Q3d3BdQ", point, *position, *color, 0.5, 2) + struct.pack("<4i", 1, 0, 2, 0)
    path.write_bytes(data)


def write_scene(
    folder: Path,
    photos: int = 10,
    points: int = 40,
    size: tuple[int, int] = (24, 18),
    step: float = 0.1,
    seed: int = 0,
    point_depth: float = 3.0,
) -> Path:
    """Photos in a row that look along z at points ``point_depth`` before them; returns ``folder``.

    Each photo shows a smooth picture of its own, so that there is something to learn.
    """
    r = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    (folder / "sparse").mkdir()
    width, height = size
    focal = 1.2 * width
    write_cameras(
        folder / "sparse/cameras.bin", {1: (1, width, height, (focal, focal, width / 2, height / 2))}
    )
    names = [f"photo_{k:03d}.png" for k in range(photos)]
    ids = tuple(range(1, points + 1))
    images = [
        WrittenImage(name, (1.0, 0.0, 0.0, 0.0), (-step * k, 0.02 * k, 0.0), points=ids)
        for k, name in enumerate(names)
    ]
    write_images(folder / "sparse/images.bin", images)
    cloud = {
        point: (
            (*(r.uniform(-1, 1, 2) * (0.9, 0.6)), point_depth + r.uniform(-0.3, 0.3)),
            tuple(int(c) for c in r.integers(40, 220, 3)),
        )
        for point in ids
    }
    write_points(folder / "sparse/points3D.bin", cloud)
    v, u = np.mgrid[0:height, 0:width]
    for k, name in enumerate(names):
        waves = [np.sin(u * (0.2 + 0.1 * c) + k * 0.3) * np.cos(v * 0.25 + c) for c in range(3)]
        picture = np.clip(128 + 80 * np.stack(waves, -1), 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / "images" / name)
    return folder
