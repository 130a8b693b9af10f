"""The gradient of ``projection``: from projected Gaussians back to their parameters."""

# ruff: noqa: E402, I001
# mypy: ignore-errors
# numba gives the kernels their types; annotations would describe no compiled call.
from __future__ import annotations

from services.trainer.cpu import environment  # noqa: F401  (before numba)

import math

import numpy as np
from numba import njit, prange

from services.trainer.cpu.antialias import add_compensation_gradient
from services.trainer.cpu.harmonics import C0, basis, direction_gradient
from services.trainer.cpu.view import HALF, ONE, TWO, ZERO, view


@njit(inline="always", fastmath=True)
def _quaternion_gradient(quat, norm, dr, out):
    w, x, y, z = quat[0] / norm, quat[1] / norm, quat[2] / norm, quat[3] / norm
    dw = TWO * (-z * dr[1] + y * dr[2] + z * dr[3] - x * dr[5] - y * dr[6] + x * dr[7])
    dx = TWO * (
        y * dr[1]
        + z * dr[2]
        + y * dr[3]
        - TWO * x * dr[4]
        - w * dr[5]
        + z * dr[6]
        + w * dr[7]
        - TWO * x * dr[8]
    )
    dy = TWO * (
        -TWO * y * dr[0]
        + x * dr[1]
        + w * dr[2]
        + x * dr[3]
        + z * dr[5]
        - w * dr[6]
        + z * dr[7]
        - TWO * y * dr[8]
    )
    dz = TWO * (
        -TWO * z * dr[0]
        - w * dr[1]
        + x * dr[2]
        + w * dr[3]
        - TWO * z * dr[4]
        + y * dr[5]
        + x * dr[6]
        + y * dr[7]
    )
    along = dw * w + dx * x + dy * y + dz * z
    out[0], out[1] = (dw - along * w) / norm, (dx - along * x) / norm
    out[2], out[3] = (dy - along * y) / norm, (dz - along * z) / norm


@njit(inline="always", fastmath={"contract", "reassoc", "nsz"})
def _mean_gradient(camera, cam, jw_gradient, d_x, d_y, sx, sy, clamped_x, clamped_y, out):
    """Adds to ``out`` [3] what the projected mean and the Jacobian pass on to the mean."""
    fx, fy, inverse = camera[12], camera[13], ONE / cam[2]
    j00, j02, j11, j12 = ZERO, ZERO, ZERO, ZERO
    for k in range(3):
        j00 += jw_gradient[k] * camera[k]
        j02 += jw_gradient[k] * camera[8 + k]
        j11 += jw_gradient[3 + k] * camera[4 + k]
        j12 += jw_gradient[3 + k] * camera[8 + k]
    gx, gy = d_x * fx * inverse, d_y * fy * inverse
    gz = -(gx * cam[0] + gy * cam[1]) * inverse - (j00 * fx + j11 * fy) * inverse * inverse
    # The Jacobian's last column is -f slope / z; a clamped slope no longer depends on the mean.
    if clamped_x:
        gz += j02 * fx * sx * inverse * inverse
    else:
        gx -= j02 * fx * inverse * inverse
        gz += TWO * j02 * fx * sx * inverse * inverse
    if clamped_y:
        gz += j12 * fy * sy * inverse * inverse
    else:
        gy -= j12 * fy * inverse * inverse
        gz += TWO * j12 * fy * sy * inverse * inverse
    for k in range(3):
        out[k] += camera[k] * gx + camera[4 + k] * gy + camera[8 + k] * gz


@njit(inline="always", fastmath={"contract", "reassoc", "nsz"})
def _harmonics_gradient(
    camera, mean, degree, coefficients, d_color, values, weights, slope, d_coefficients, d_mean
):
    """Gradient by the higher harmonics, and by the mean through the direction of view."""
    dx, dy, dz = mean[0] - camera[18], mean[1] - camera[19], mean[2] - camera[20]
    inverse = ONE / max(math.sqrt(dx * dx + dy * dy + dz * dz), np.float32(1e-12))
    dx, dy, dz = dx * inverse, dy * inverse, dz * inverse
    basis(degree, dx, dy, dz, values)
    for k in range((degree + 1) * (degree + 1) - 1):
        weights[k] = ZERO
        for channel in range(3):
            weights[k] += coefficients[k, channel] * d_color[channel]
            d_coefficients[k, channel] = values[k] * d_color[channel]
    direction_gradient(degree, dx, dy, dz, weights, slope)
    along = slope[0] * dx + slope[1] * dy + slope[2] * dz
    d_mean[0] += (slope[0] - along * dx) * inverse
    d_mean[1] += (slope[1] - along * dy) * inverse
    d_mean[2] += (slope[2] - along * dz) * inverse


@njit(inline="always", fastmath={"contract", "reassoc", "nsz"})
def _factor_gradient(r, g, factor, d_factor):
    """Fills d_factor [6], the gradient by J W R S, from that of the conic."""
    # d cov = - conic (d conic) conic, both symmetric.
    a, b, c, da, db, dc = r[2], r[3], r[4], g[2], HALF * g[3], g[4]
    m0, m1, m2, m3 = a * da + b * db, a * db + b * dc, b * da + c * db, b * db + c * dc
    xx, xy, yy = -(m0 * a + m1 * b), -(m0 * b + m1 * c), -(m2 * b + m3 * c)
    for k in range(3):
        d_factor[k] = TWO * (xx * factor[k] + xy * factor[3 + k])
        d_factor[3 + k] = TWO * (xy * factor[k] + yy * factor[3 + k])


@njit(parallel=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
def project_backward(
    camera,
    means,
    log_scales,
    quats,
    sh_rest,
    degree,
    records,
    counts,
    offsets,
    tile_ids,
    pair_gradients,
    full_opacities,
    d_means,
    d_log_scales,
    d_quats,
    d_opacity_logits,
    d_sh0,
    d_sh_rest,
    norms,
    threads,
):
    """Sums each Gaussian's pair gradients and turns them into gradients of its parameters.

    Args:
        camera: [21].
        means: [N, 3].
        log_scales: [N, 3].
        quats: [N, 4].
        sh_rest: [N, K - 1, 3].
        degree: In use.
        records: [N, 10] of the forward pass.
        counts: [N] pairs of each Gaussian.
        offsets: [N] where its pairs stand in what follows.
        tile_ids: [pairs] their tiles; -1 for none, which has no gradient.
        pair_gradients: [pairs, 9].
        full_opacities: [N] of the forward pass where it was antialiased, else None.
        d_means: [N, 3], written, as are all that follow.
        d_log_scales: [N, 3].
        d_quats: [N, 4].
        d_opacity_logits: [N].
        d_sh0: [N, 3].
        d_sh_rest: [N, K - 1, 3].
        norms: [N] norm of the gradient by the projected mean, NDC units.
        threads: Threads to use.
    """
    total = means.shape[0]
    for thread in prange(threads):
        cam, rotation, scale = np.empty(3, np.float32), np.empty(9, np.float32), np.empty(3, np.float32)
        factor, jw, values = np.empty(6, np.float32), np.empty(6, np.float32), np.zeros(15, np.float32)
        weights, slope, d_color = np.zeros(15, np.float32), np.zeros(3, np.float32), np.empty(3, np.float32)
        g, d_factor = np.empty(9, np.float32), np.empty(6, np.float32)
        d_jw, d_rotation = np.empty(6, np.float32), np.empty(9, np.float32)
        for i in range(total * thread // threads, total * (thread + 1) // threads):
            d_means[i], d_log_scales[i], d_quats[i], d_sh0[i], d_sh_rest[i] = (
                ZERO,
                ZERO,
                ZERO,
                ZERO,
                ZERO,
            )
            d_opacity_logits[i], norms[i] = ZERO, ZERO
            if counts[i] == 0:
                continue
            g[:] = ZERO
            for k in range(offsets[i], offsets[i] + counts[i]):
                if tile_ids[k] >= 0:
                    for j in range(9):
                        g[j] += pair_gradients[k, j]
            _, sx, sy, clamped_x, clamped_y, norm = view(
                camera, means[i], log_scales[i], quats[i], cam, rotation, scale, factor, jw
            )
            r = records[i]
            norms[i] = HALF * math.sqrt((g[0] * camera[16]) ** 2 + (g[1] * camera[17]) ** 2)
            sigmoid = r[5] if full_opacities is None else full_opacities[i]
            d_opacity_logits[i] = g[5] * r[5] * (ONE - sigmoid)
            for channel in range(3):
                d_color[channel] = g[6 + channel] if r[6 + channel] > ZERO else ZERO
                d_sh0[i, channel] = C0 * d_color[channel]
            if degree > 0:
                _harmonics_gradient(
                    camera,
                    means[i],
                    degree,
                    sh_rest[i],
                    d_color,
                    values,
                    weights,
                    slope,
                    d_sh_rest[i],
                    d_means[i],
                )
            _factor_gradient(r, g, factor, d_factor)
            if full_opacities is not None:
                add_compensation_gradient(factor, g[5] * r[5], d_factor)
            d_jw[:] = ZERO
            for k in range(3):
                d_scale = ZERO
                for j in range(3):
                    side = rotation[3 * j + k] * scale[k]
                    d_jw[j] += d_factor[k] * side
                    d_jw[3 + j] += d_factor[3 + k] * side
                    d_side = jw[j] * d_factor[k] + jw[3 + j] * d_factor[3 + k]
                    d_scale += d_side * side
                    d_rotation[3 * j + k] = d_side * scale[k]
                d_log_scales[i, k] = d_scale
            _quaternion_gradient(quats[i], norm, d_rotation, d_quats[i])
            _mean_gradient(camera, cam, d_jw, g[0], g[1], sx, sy, clamped_x, clamped_y, d_means[i])
