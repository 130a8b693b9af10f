"""What the low-pass filter must take from a Gaussian's opacity, and the gradient of that.

The 2D filter of Mip-Splatting (Yu et al. 2024): a Gaussian that 0.3 I widens by some factor
in area gets its opacity divided by that factor, so that its light stays what it was:
rho = sqrt(max(det(cov2d), 0) / det(cov2d + 0.3 I)).

With F the 2 x 3 factor of cov2d = F F^T, f0 and f1 its rows and n = f0 x f1, det(cov2d) is
|n|^2 (Lagrange's identity): a sum of squares where xx yy - xy^2 cancels, in float32 down to
noise for a needle. det(cov2d + 0.3 I) = |n|^2 + 0.3 trace(cov2d) + 0.09 does not cancel either,
and rho is never above 1.
"""

# ruff: noqa: E402, I001
# mypy: ignore-errors
# numba gives the kernels their types; annotations would describe no compiled call.
from __future__ import annotations

from services.trainer.cpu import environment  # noqa: F401  (before numba)

import math

from numba import njit

from services.trainer.cpu.view import LOW_PASS


@njit(inline="always")
def _determinants(factor):
    """n = f0 x f1, |n|^2 = det(cov2d), and how much larger det(cov2d + 0.3 I) is."""
    n0 = factor[1] * factor[5] - factor[2] * factor[4]
    n1 = factor[2] * factor[3] - factor[0] * factor[5]
    n2 = factor[0] * factor[4] - factor[1] * factor[3]
    trace = factor[0] * factor[0] + factor[1] * factor[1] + factor[2] * factor[2]
    trace += factor[3] * factor[3] + factor[4] * factor[4] + factor[5] * factor[5]
    return n0, n1, n2, n0 * n0 + n1 * n1 + n2 * n2, LOW_PASS * (trace + LOW_PASS)


@njit(inline="always")
def compensation(factor):
    """rho of a projected Gaussian, 0 to 1, from its factor J W R S [6]; 0 for one without area."""
    _, _, _, area, excess = _determinants(factor)
    return math.sqrt(area / (area + excess))


@njit(inline="always")
def add_compensation_gradient(factor, weight, d_factor):
    """Adds ``weight`` d log(rho) / d factor to ``d_factor`` [6].

    log rho = log|n| - log(|n|^2 + e) / 2, e = 0.3 (|f0|^2 + |f1|^2 + 0.3), hence by f0
    e / (|n|^2 + e) (f1 x n) / |n|^2 - 0.3 f0 / (|n|^2 + e), by f1 the same with n x f0. No two
    large terms cancel. A Gaussian that is drawn has opacity * rho of 1/255 and more, so |n| is
    far from 0 there.
    """
    n0, n1, n2, area, excess = _determinants(factor)
    inverse = weight / (area + excess)
    shape, size = inverse * excess / area, inverse * LOW_PASS
    d_factor[0] += shape * (factor[4] * n2 - factor[5] * n1) - size * factor[0]
    d_factor[1] += shape * (factor[5] * n0 - factor[3] * n2) - size * factor[1]
    d_factor[2] += shape * (factor[3] * n1 - factor[4] * n0) - size * factor[2]
    d_factor[3] += shape * (n1 * factor[2] - n2 * factor[1]) - size * factor[3]
    d_factor[4] += shape * (n2 * factor[0] - n0 * factor[2]) - size * factor[4]
    d_factor[5] += shape * (n0 * factor[1] - n1 * factor[0]) - size * factor[5]
