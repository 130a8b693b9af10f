"""Cameras of the sample: a pinhole model and the path that photos are taken along."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOCAL_LENGTH_35MM = 28
"""Focal length on a 35 mm film frame (43.27 mm across), what EXIF tells COLMAP."""

_FILM_DIAGONAL_MM = math.hypot(36.0, 24.0)
_LOOK_AT = np.array([0.0, 0.0, 0.85])
_STEP_DEGREES = 20.0


@dataclass(frozen=True, eq=False)
class SampleCamera:
    """A pinhole camera without distortion; pixel (0, 0)'s centre is at (0.5, 0.5)."""

    cam_from_world: NDArray[np.float64]  # [4, 4], rigid; x right, y down, z forward
    fx: float  # pixels
    fy: float
    cx: float
    cy: float
    width: int  # pixels
    height: int

    @property
    def position(self) -> NDArray[np.float64]:
        """Centre of projection in the world, [3]."""
        rotation, translation = self.cam_from_world[:3, :3], self.cam_from_world[:3, 3]
        return np.asarray(-rotation.T @ translation)

    def project(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Projects world points.

        Args:
            points: [N, 3] in world units, all in front of the camera.

        Returns:
            Pixel coordinates, [N, 2].
        """
        local = points @ self.cam_from_world[:3, :3].T + self.cam_from_world[:3, 3]
        x, y = local[:, 0] / local[:, 2], local[:, 1] / local[:, 2]
        return np.stack([self.fx * x + self.cx, self.fy * y + self.cy], axis=1)

    def to_json(self) -> dict[str, Any]:
        """The camera as plain values, to be written as JSON."""
        return {
            "width": self.width,
            "height": self.height,
            "fx": self.fx,
            "fy": self.fy,
            "cx": self.cx,
            "cy": self.cy,
            "cam_from_world": self.cam_from_world.tolist(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SampleCamera:
        """The camera that ``to_json`` described."""
        matrix = np.asarray(values["cam_from_world"], dtype=np.float64)
        return cls(
            matrix,
            float(values["fx"]),
            float(values["fy"]),
            float(values["cx"]),
            float(values["cy"]),
            int(values["width"]),
            int(values["height"]),
        )


def orbit_camera(
    azimuth: float,
    elevation: float,
    distance: float = 7.8,
    width: int = 960,
    height: int = 720,
    look_at: NDArray[np.float64] | None = None,
    roll: float = 0.0,
) -> SampleCamera:
    """A camera on a sphere around the scene, looking in.

    Args:
        azimuth: Degrees about the vertical axis; 0 stands in front, growing to the right.
        elevation: Degrees above the floor.
        distance: From the point looked at, in world units.
        width: Of the picture, in pixels.
        height: Of the picture, in pixels.
        look_at: Point in the middle of the picture, [3]; the heart of the scene when None.
        roll: Degrees that the camera is turned about its own axis.

    Returns:
        The camera.
    """
    target = _LOOK_AT if look_at is None else look_at
    a, e, r = math.radians(azimuth), math.radians(elevation), math.radians(roll)
    offset = np.array([math.sin(a) * math.cos(e), -math.cos(a) * math.cos(e), math.sin(e)])
    forward = -offset
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    right, down = (
        math.cos(r) * right + math.sin(r) * down,
        math.cos(r) * down - math.sin(r) * right,
    )
    cam_from_world = np.eye(4)
    cam_from_world[:3, :3] = np.stack([right, down, forward])
    cam_from_world[:3, 3] = -cam_from_world[:3, :3] @ (target + distance * offset)
    focal = FOCAL_LENGTH_35MM / _FILM_DIAGONAL_MM * math.hypot(width, height)
    return SampleCamera(cam_from_world, focal, focal, width / 2, height / 2, width, height)


def capture_path(photos: int, width: int, height: int, seed: int) -> list[SampleCamera]:
    """Where a person walking around the scene takes photos: a low ring, then a high one.

    Steps are at most 20 degrees, so that neighbours match: few photos make an arc in
    front of the scene, 30 and more go all the way round. Hands are never quite still:
    each pose is moved a little at random.

    Args:
        photos: How many, at least 2.
        width: Of each photo, in pixels.
        height: Of each photo, in pixels.
        seed: Of the random moves.

    Returns:
        The cameras in the order of the walk.
    """
    rng = np.random.default_rng([seed, 7])
    low = max(1, round(photos * 0.6))
    arc = min(360.0, _STEP_DEGREES * low)
    start = -_STEP_DEGREES if arc == 360.0 else -arc / 2  # a walk around begins at the front
    cameras = []
    for ring, (count, elevation, distance) in enumerate([(low, 20.0, 7.7), (photos - low, 39.0, 8.0)]):
        for index in range(count):
            move = rng.uniform(-1.0, 1.0, size=6)
            azimuth = start + arc * (index + 0.5 * ring) / count
            cameras.append(
                orbit_camera(
                    azimuth + 1.5 * move[0],
                    elevation + 2.0 * move[1],
                    distance + 0.25 * move[2],
                    width,
                    height,
                    look_at=_LOOK_AT + np.array([0.15, 0.15, 0.06]) * move[3:6],
                    roll=float(rng.uniform(-1.5, 1.5)),
                )
            )
    return cameras
