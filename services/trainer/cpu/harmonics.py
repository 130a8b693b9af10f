"""Real spherical harmonics up to degree 3 and their derivatives, for numba."""

# ruff: noqa: E402, I001
from __future__ import annotations

from services.trainer.cpu import environment  # noqa: F401  (before numba)

import numpy as np
from numba import njit

C0 = np.float32(0.28209479177387814)
_C1 = np.float32(0.4886025119029199)
_C2 = tuple(
    np.float32(c) for c in (1.0925484305920792, -1.0925484305920792, 0.31539156525252005, 0.5462742152960396)
)
_C3 = tuple(
    np.float32(c)
    for c in (
        -0.5900435899266435,
        2.890611442640554,
        -0.4570457994644658,
        0.3731763325901154,
        1.445305721320277,
    )
)


@njit(inline="always", fastmath=True)
def basis(degree, x, y, z, out):
    """Writes the (degree + 1)^2 - 1 values above degree 0 at a unit vector into ``out`` [15]."""
    if degree < 1:
        return
    out[0], out[1], out[2] = -_C1 * y, _C1 * z, -_C1 * x
    if degree < 2:
        return
    xx, yy, zz = x * x, y * y, z * z
    two, three, four = np.float32(2), np.float32(3), np.float32(4)
    out[3] = _C2[0] * x * y
    out[4] = _C2[1] * y * z
    out[5] = _C2[2] * (two * zz - xx - yy)
    out[6] = _C2[1] * x * z
    out[7] = _C2[3] * (xx - yy)
    if degree < 3:
        return
    out[8] = _C3[0] * y * (three * xx - yy)
    out[9] = _C3[1] * x * y * z
    out[10] = _C3[2] * y * (four * zz - xx - yy)
    out[11] = _C3[3] * z * (two * zz - three * xx - three * yy)
    out[12] = _C3[2] * x * (four * zz - xx - yy)
    out[13] = _C3[4] * z * (xx - yy)
    out[14] = _C3[0] * x * (xx - three * yy)


@njit(inline="always", fastmath=True)
def direction_gradient(degree, x, y, z, w, out):
    """Writes d (sum_k w[k] basis[k]) / d (x, y, z) into ``out`` [3]."""
    out[0], out[1], out[2] = -_C1 * w[2], -_C1 * w[0], _C1 * w[1]
    if degree < 2:
        return
    two, three, four, six, eight = np.float32(2), np.float32(3), np.float32(4), np.float32(6), np.float32(8)
    a, b, c, d, e = _C2[0] * w[3], _C2[1] * w[4], _C2[2] * w[5], _C2[1] * w[6], _C2[3] * w[7]
    out[0] += a * y - two * c * x + d * z + two * e * x
    out[1] += a * x + b * z - two * c * y - two * e * y
    out[2] += b * y + four * c * z + d * x
    if degree < 3:
        return
    xx, yy, zz = x * x, y * y, z * z
    f, g, h, i = _C3[0] * w[8], _C3[1] * w[9], _C3[2] * w[10], _C3[3] * w[11]
    j, k, m = _C3[2] * w[12], _C3[4] * w[13], _C3[0] * w[14]
    out[0] += f * six * x * y + g * y * z - h * two * x * y - i * six * x * z
    out[0] += j * (four * zz - three * xx - yy) + k * two * x * z + m * three * (xx - yy)
    out[1] += f * three * (xx - yy) + g * x * z + h * (four * zz - xx - three * yy) - i * six * y * z
    out[1] += -j * two * x * y - k * two * y * z - m * six * x * y
    out[2] += g * x * y + h * eight * y * z + i * (six * zz - three * xx - three * yy)
    out[2] += j * eight * x * z + k * (xx - yy)
