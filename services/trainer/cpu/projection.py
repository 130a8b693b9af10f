"""Projection of Gaussians to the picture, one Gaussian at a time.

EWA splatting (Zwicker et al. 2001) as in 3D Gaussian Splatting (Kerbl et al. 2023):
cov2d = J W S W^T J^T + 0.3 I, J the Jacobian of the pinhole projection at the mean.
"""

# ruff: noqa: E402, I001
from __future__ import annotations

from services.trainer.cpu import environment  # noqa: F401  (before numba)

import math

import numpy as np
from numba import njit, prange

from services.trainer.cpu.antialias import compensation
from services.trainer.cpu.harmonics import C0, basis
from services.trainer.cpu.tiles import row_range, span
from services.trainer.cpu.view import ALPHA_MIN, FAR, HALF, LOW_PASS, ONE, TWO, ZERO, view

RECORD = 10  # x y a b c opacity red green blue limit


@njit(parallel=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
def project_forward(
    camera,
    means,
    log_scales,
    quats,
    opacity_logits,
    sh0,
    sh_rest,
    degree,
    tiles_x,
    tiles_y,
    records,
    depths,
    counts,
    half_heights,
    radii,
    full_opacities,
    threads,
):
    """Fills records [N, 10], depths [N], tile counts [N], half heights [N] and radii [N].

    A Gaussian that cannot be seen, or is not finite, gets count 0 and radius 0. Antialiased
    where ``full_opacities`` [N] is not None: it then gets the opacities before the factor rho.
    numba compiles the two cases apart, so that the plain one pays nothing for the other.
    """
    total = means.shape[0]
    used = (degree + 1) * (degree + 1) - 1
    for thread in prange(threads):
        cam, rotation, scale = np.empty(3, np.float32), np.empty(9, np.float32), np.empty(3, np.float32)
        factor, jw, values = np.empty(6, np.float32), np.empty(6, np.float32), np.zeros(15, np.float32)
        for i in range(total * thread // threads, total * (thread + 1) // threads):
            counts[i], radii[i] = 0, ZERO
            seen, _, _, _, _, _ = view(
                camera, means[i], log_scales[i], quats[i], cam, rotation, scale, factor, jw
            )
            depths[i] = cam[2]
            if not seen:
                continue
            opacity = ONE / (ONE + math.exp(-opacity_logits[i]))
            xx = factor[0] * factor[0] + factor[1] * factor[1] + factor[2] * factor[2] + LOW_PASS
            xy = factor[0] * factor[3] + factor[1] * factor[4] + factor[2] * factor[5]
            yy = factor[3] * factor[3] + factor[4] * factor[4] + factor[5] * factor[5] + LOW_PASS
            det = xx * yy - xy * xy
            if not (opacity >= ALPHA_MIN and det > ZERO and det < np.float32(1e30)):
                continue
            if full_opacities is not None:
                full_opacities[i] = opacity
                opacity = opacity * compensation(factor)
                if not opacity >= ALPHA_MIN:
                    continue
            x = camera[12] * cam[0] / cam[2] + camera[14]
            y = camera[13] * cam[1] / cam[2] + camera[15]
            if not (abs(x) < FAR and abs(y) < FAR):
                continue
            limit = math.log(opacity / ALPHA_MIN)
            a, b, c = yy / det, -xy / det, xx / det
            half_height = math.sqrt(TWO * limit * yy)
            first_row, behind_row = row_range(y, half_height, tiles_y)
            count = 0
            for row in range(first_row, behind_row):
                first, behind = span(a, b, c, limit, x, y, row, tiles_x)
                count += max(0, behind - first)
            if count == 0:
                continue
            dx, dy, dz = means[i, 0] - camera[18], means[i, 1] - camera[19], means[i, 2] - camera[20]
            inverse = ONE / max(math.sqrt(dx * dx + dy * dy + dz * dz), np.float32(1e-12))
            basis(degree, dx * inverse, dy * inverse, dz * inverse, values)
            record = records[i]
            for channel in range(3):
                color = HALF + C0 * sh0[i, channel]
                for k in range(used):
                    color += values[k] * sh_rest[i, k, channel]
                record[6 + channel] = color if color > ZERO else ZERO
            record[0], record[1], record[2], record[3], record[4] = x, y, a, b, c
            record[5], record[9] = opacity, limit
            counts[i], half_heights[i] = count, half_height
            middle = HALF * (xx + yy)
            radii[i] = math.ceil(
                np.float32(3) * math.sqrt(middle + math.sqrt(max(middle * middle - det, ZERO)))
            )
