"""Real spherical harmonics up to degree 3 and their derivatives, of floats or of lanes."""

from __future__ import annotations

from collections.abc import Sequence

from services.trainer.cpu.lanes import Lanes

C0 = 0.28209479177387814
_C1 = 0.4886025119029199
_C2 = (1.0925484305920792, -1.0925484305920792, 0.31539156525252005, 0.5462742152960396)
_C3 = (-0.5900435899266435, 2.890611442640554, -0.4570457994644658, 0.3731763325901154, 1.445305721320277)


def basis(x: Lanes, y: Lanes, z: Lanes) -> list[Lanes]:
    """The 15 values above degree 0 at a unit vector."""
    xx, yy, zz = x * x, y * y, z * z
    return [
        -_C1 * y,
        _C1 * z,
        -_C1 * x,
        _C2[0] * x * y,
        _C2[1] * y * z,
        _C2[2] * (2.0 * zz - xx - yy),
        _C2[1] * x * z,
        _C2[3] * (xx - yy),
        _C3[0] * y * (3.0 * xx - yy),
        _C3[1] * x * y * z,
        _C3[2] * y * (4.0 * zz - xx - yy),
        _C3[3] * z * (2.0 * zz - 3.0 * xx - 3.0 * yy),
        _C3[2] * x * (4.0 * zz - xx - yy),
        _C3[4] * z * (xx - yy),
        _C3[0] * x * (xx - 3.0 * yy),
    ]


def direction_gradient(x: Lanes, y: Lanes, z: Lanes, w: Sequence[Lanes]) -> list[Lanes]:
    """d (sum_k w[k] basis[k]) / d (x, y, z)."""
    xx, yy, zz = x * x, y * y, z * z
    a, b, c, d, e = _C2[0] * w[3], _C2[1] * w[4], _C2[2] * w[5], _C2[1] * w[6], _C2[3] * w[7]
    f, g, h, i = _C3[0] * w[8], _C3[1] * w[9], _C3[2] * w[10], _C3[3] * w[11]
    j, k, m = _C3[2] * w[12], _C3[4] * w[13], _C3[0] * w[14]
    by_x = -_C1 * w[2] + a * y - 2.0 * c * x + d * z + 2.0 * e * x
    by_x += f * 6.0 * x * y + g * y * z - h * 2.0 * x * y - i * 6.0 * x * z
    by_x += j * (4.0 * zz - 3.0 * xx - yy) + k * 2.0 * x * z + m * 3.0 * (xx - yy)
    by_y = -_C1 * w[0] + a * x + b * z - 2.0 * c * y - 2.0 * e * y
    by_y += f * 3.0 * (xx - yy) + g * x * z + h * (4.0 * zz - xx - 3.0 * yy) - i * 6.0 * y * z
    by_y += -(j * 2.0 * x * y) - k * 2.0 * y * z - m * 6.0 * x * y
    by_z = _C1 * w[1] + b * y + 4.0 * c * z + d * x
    by_z += g * x * y + h * 8.0 * y * z + i * (6.0 * zz - 3.0 * xx - 3.0 * yy)
    by_z += j * 8.0 * x * z + k * (xx - yy)
    return [by_x, by_y, by_z]
