"""A Gaussian in a camera's frame: what projection and its gradient both begin with.

The camera is a [21] float32 array: cam_from_world's upper 3 x 4 row by row, fx, fy, cx, cy,
width, height, and the camera's centre in the world.
"""

# ruff: noqa: E402, I001
# mypy: ignore-errors
# numba gives the kernels their types; annotations would describe no compiled call.
from __future__ import annotations

from services.trainer.cpu import environment  # noqa: F401  (before numba)

import math

import numpy as np
from numba import njit

LOW_PASS = np.float32(0.3)  # pixel^2 added to the projected covariance
NEAR_PLANE = np.float32(0.01)
FAR = np.float32(1e9)
ALPHA_MIN = np.float32(1 / 255)
ZERO, HALF, ONE, TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
_MARGIN = np.float32(0.15)  # of the picture's size, beyond which the Jacobian is held


@njit(inline="always", fastmath={"contract", "reassoc", "nsz"})
def view(camera, mean, log_scale, quat, cam, rotation, scale, factor, jw):
    """Fills camera-frame mean [3], rotation [9], scale [3], J W R S [6] and J W [6].

    Answers whether the Gaussian can be seen, the clamped slopes, whether they are clamped,
    and the quaternion's norm.
    """
    for i in range(3):
        k = 4 * i
        cam[i] = camera[k] * mean[0] + camera[k + 1] * mean[1] + camera[k + 2] * mean[2] + camera[k + 3]
    z = cam[2]
    norm = math.sqrt(quat[0] * quat[0] + quat[1] * quat[1] + quat[2] * quat[2] + quat[3] * quat[3])
    if not (z > NEAR_PLANE and z < FAR and norm > np.float32(1e-12)):
        return False, ZERO, ZERO, False, False, ONE
    w, x, y, q = quat[0] / norm, quat[1] / norm, quat[2] / norm, quat[3] / norm
    rotation[0], rotation[1], rotation[2] = (
        ONE - TWO * (y * y + q * q),
        TWO * (x * y - w * q),
        TWO * (x * q + w * y),
    )
    rotation[3], rotation[4], rotation[5] = (
        TWO * (x * y + w * q),
        ONE - TWO * (x * x + q * q),
        TWO * (y * q - w * x),
    )
    rotation[6], rotation[7], rotation[8] = (
        TWO * (x * q - w * y),
        TWO * (y * q + w * x),
        ONE - TWO * (x * x + y * y),
    )
    for i in range(3):
        scale[i] = math.exp(log_scale[i])
    fx, fy, cx, cy, width, height = camera[12], camera[13], camera[14], camera[15], camera[16], camera[17]
    slope_x, slope_y = cam[0] / z, cam[1] / z
    sx = min(max(slope_x, (-cx - _MARGIN * width) / fx), (width - cx + _MARGIN * width) / fx)
    sy = min(max(slope_y, (-cy - _MARGIN * height) / fy), (height - cy + _MARGIN * height) / fy)
    for k in range(3):
        jw[k] = fx / z * (camera[k] - sx * camera[8 + k])
        jw[3 + k] = fy / z * (camera[4 + k] - sy * camera[8 + k])
    for row in range(2):
        for k in range(3):
            total = (
                jw[3 * row] * rotation[k]
                + jw[3 * row + 1] * rotation[3 + k]
                + jw[3 * row + 2] * rotation[6 + k]
            )
            factor[3 * row + k] = total * scale[k]
    return True, sx, sy, sx != slope_x, sy != slope_y, norm
