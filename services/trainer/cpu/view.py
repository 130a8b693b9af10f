"""A Gaussian in a camera's frame: what projection and its gradient both begin with.

The camera is a [21] float32 array: cam_from_world's upper 3 x 4 row by row, fx, fy, cx, cy,
width, height, and the camera's centre in the world.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.trainer.cpu.lanes import Lanes, Mask, dot, exp, sqrt

LOW_PASS = 0.3  # pixel^2 added to the projected covariance
NEAR_PLANE = 0.01
FAR = 1e9
ALPHA_MIN = 1 / 255
_MARGIN = 0.15  # of the picture's size, beyond which the Jacobian is held


@dataclass(frozen=True)
class View:
    """Sixteen Gaussians as a camera sees them."""

    seen: Mask
    """Before the camera, with a rotation."""
    position: list[Lanes]
    """Mean in the camera's frame, [3]."""
    inverse_depth: Lanes
    slopes: tuple[Lanes, Lanes]
    """x / z and y / z, held near the picture."""
    free: tuple[Mask, Mask]
    """Where they are not held."""
    quat: list[Lanes]
    """Normalised, w x y z."""
    inverse_norm: Lanes
    """Of the quaternion as it was."""
    rotation: list[Lanes]
    """R row by row, [9]."""
    scale: list[Lanes]
    """Standard deviations, [3]."""
    jw: list[Lanes]
    """J W row by row, [6]."""
    factor: list[Lanes]
    """J W R S row by row, [6]; times its transpose it is the projected covariance."""


def view(
    camera: Sequence[Lanes], mean: Sequence[Lanes], log_scale: Sequence[Lanes], quat: Sequence[Lanes]
) -> View:
    """Looks at Gaussians of mean [3], log standard deviations [3] and quaternion [4]."""
    position = [dot(camera[4 * i : 4 * i + 3], mean) + camera[4 * i + 3] for i in range(3)]
    depth, norm = position[2], sqrt(dot(quat, quat))
    seen = (depth > NEAR_PLANE) & (depth < FAR) & (norm > 1e-12)
    inverse_norm, inverse_depth = 1.0 / norm, 1.0 / depth
    unit = [q * inverse_norm for q in quat]
    rotation, scale = _rotation(unit), [exp(each) for each in log_scale]
    slopes, held = [], []
    for focal, center, size, along in zip(
        camera[12:14], camera[14:16], camera[16:18], position[:2], strict=True
    ):
        slope, margin = along * inverse_depth, _MARGIN * size
        held.append(slope.at_least((-center - margin) / focal).at_most((size - center + margin) / focal))
        slopes.append(slope)
    jw = [
        camera[12 + row] * inverse_depth * (camera[4 * row + k] - held[row] * camera[8 + k])
        for row in range(2)
        for k in range(3)
    ]
    factor = [dot(jw[3 * row : 3 * row + 3], rotation[k::3]) * scale[k] for row in range(2) for k in range(3)]
    free = slopes[0].equals(held[0]), slopes[1].equals(held[1])
    return View(
        seen, position, inverse_depth, (held[0], held[1]), free, unit, inverse_norm, rotation, scale,
        jw, factor,
    )  # fmt: skip


def direction(camera: Sequence[Lanes], mean: Sequence[Lanes]) -> tuple[list[Lanes], Lanes]:
    """Unit vector from the camera's centre to the mean, [3], and one over the distance."""
    apart = [along - center for along, center in zip(mean, camera[18:21], strict=True)]
    inverse = 1.0 / sqrt(dot(apart, apart)).at_least(1e-12)
    return [each * inverse for each in apart], inverse


def _rotation(unit: Sequence[Lanes]) -> list[Lanes]:
    """Rotation matrix of a unit quaternion, row by row."""
    w, x, y, z = unit
    return [
        1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y),
        2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x),
        2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y),
    ]  # fmt: skip
