"""What the low-pass filter must take from a Gaussian's opacity, and the gradient of that.

The 2D filter of Mip-Splatting (Yu et al. 2024): a Gaussian that 0.3 I widens by some factor
in area gets its opacity divided by that factor, so that its light stays what it was:
rho = sqrt(max(det(cov2d), 0) / det(cov2d + 0.3 I)).

With F the 2 x 3 factor of cov2d = F F^T, f0 and f1 its rows and n = f0 x f1, det(cov2d) is
|n|^2 (Lagrange's identity): a sum of squares where xx yy - xy^2 cancels, in float32 down to
noise for a needle. det(cov2d + 0.3 I) = |n|^2 + 0.3 trace(cov2d) + 0.09 does not cancel either,
and rho is never above 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.trainer.cpu.lanes import Lanes, dot, sqrt
from services.trainer.cpu.view import LOW_PASS


def compensation(factor: Sequence[Lanes]) -> Lanes:
    """rho of projected Gaussians, 0 to 1, from their factor J W R S [6]; 0 for one without area."""
    _, area, excess = _determinants(factor)
    return sqrt(area / (area + excess))


def compensation_gradient(factor: Sequence[Lanes], weight: Lanes) -> list[Lanes]:
    """``weight`` d log(rho) / d factor, [6].

    log rho = log|n| - log(|n|^2 + e) / 2, e = 0.3 (|f0|^2 + |f1|^2 + 0.3), hence by f0
    e / (|n|^2 + e) (f1 x n) / |n|^2 - 0.3 f0 / (|n|^2 + e), by f1 the same with n x f0. No two
    large terms cancel. A Gaussian that is drawn has opacity * rho of 1/255 and more, so |n| is
    far from 0 there.
    """
    normal, area, excess = _determinants(factor)
    inverse = weight / (area + excess)
    shape, size = inverse * excess / area, inverse * LOW_PASS
    across = _cross(factor[3:], normal) + _cross(normal, factor[:3])
    return [shape * each - size * own for each, own in zip(across, factor, strict=True)]


def _determinants(factor: Sequence[Lanes]) -> tuple[list[Lanes], Lanes, Lanes]:
    """n = f0 x f1, |n|^2 = det(cov2d), and how much larger det(cov2d + 0.3 I) is."""
    normal = _cross(factor[:3], factor[3:])
    trace = dot(factor, factor)
    return normal, dot(normal, normal), LOW_PASS * (trace + LOW_PASS)


def _cross(x: Sequence[Lanes], y: Sequence[Lanes]) -> list[Lanes]:
    return [x[1] * y[2] - x[2] * y[1], x[2] * y[0] - x[0] * y[2], x[0] * y[1] - x[1] * y[0]]
