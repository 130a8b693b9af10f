"""Projection of Gaussians to the picture and its gradient, one Gaussian at a time.

EWA splatting (Zwicker et al. 2001) as in 3D Gaussian Splatting (Kerbl et al. 2023):
cov2d = J W S W^T J^T + 0.3 I, J the Jacobian of the pinhole projection at the mean.
The camera is a [21] float32 array: cam_from_world's upper 3 x 4 row by row, fx, fy, cx, cy,
width, height, and the camera's centre in the world.
"""

# ruff: noqa: E402, I001
from __future__ import annotations

from services.trainer.cpu import environment  # noqa: F401  (before numba)

import math

import numpy as np
from numba import njit, prange

from services.trainer.cpu.harmonics import C0, basis, direction_gradient

RECORD = 10  # x y a b c opacity red green blue limit
TILE = 16
_LOW_PASS = np.float32(0.3)
_NEAR_PLANE = np.float32(0.01)
_ALPHA_MIN = np.float32(1 / 255)
_ZERO, _HALF, _ONE, _TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
_MARGIN = np.float32(0.15)  # of the picture's size, beyond which the Jacobian is held
_FAR = np.float32(1e9)


@njit(inline="always", fastmath={"contract", "reassoc", "nsz"})
def _view(camera, mean, log_scale, quat, cam, rotation, scale, factor, jw):
    """Fills camera-frame mean [3], rotation [9], scale [3], J W R S [6] and J W [6].

    Answers whether the Gaussian can be seen, the clamped slopes, whether they are clamped,
    and the quaternion's norm.
    """
    for i in range(3):
        k = 4 * i
        cam[i] = camera[k] * mean[0] + camera[k + 1] * mean[1] + camera[k + 2] * mean[2] + camera[k + 3]
    z = cam[2]
    norm = math.sqrt(quat[0] * quat[0] + quat[1] * quat[1] + quat[2] * quat[2] + quat[3] * quat[3])
    if not (z > _NEAR_PLANE and z < _FAR and norm > np.float32(1e-12)):
        return False, _ZERO, _ZERO, False, False, _ONE
    w, x, y, q = quat[0] / norm, quat[1] / norm, quat[2] / norm, quat[3] / norm
    rotation[0], rotation[1], rotation[2] = (
        _ONE - _TWO * (y * y + q * q),
        _TWO * (x * y - w * q),
        _TWO * (x * q + w * y),
    )
    rotation[3], rotation[4], rotation[5] = (
        _TWO * (x * y + w * q),
        _ONE - _TWO * (x * x + q * q),
        _TWO * (y * q - w * x),
    )
    rotation[6], rotation[7], rotation[8] = (
        _TWO * (x * q - w * y),
        _TWO * (y * q + w * x),
        _ONE - _TWO * (x * x + y * y),
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


@njit(inline="always")
def _span(a, b, c, limit, x, y, row, tiles_x):
    """First tile and the one behind the last that the ellipse reaches in a row of tiles.

    Power is 0.5 (a dx^2 + 2 b dx dy + c dy^2) <= limit. The right end at a given dy is
    (-b dy + sqrt(b^2 dy^2 - a (c dy^2 - 2 limit))) / a, furthest at the ellipse's own
    extreme, clamped to the dy of the row's first and last pixel centre.
    """
    low = np.float32(row * TILE) + _HALF - y
    high = low + np.float32(TILE - 1)
    reach, det = _TWO * limit, a * c - b * b
    half_height = math.sqrt(reach * a / det)
    if low > half_height or high < -half_height:
        return 0, 0
    extreme = -b / c * math.sqrt(reach * c / det)
    dy_right, dy_left = min(max(extreme, low), high), min(max(-extreme, low), high)
    root_right = math.sqrt(max(b * b * dy_right * dy_right - a * (c * dy_right * dy_right - reach), _ZERO))
    root_left = math.sqrt(max(b * b * dy_left * dy_left - a * (c * dy_left * dy_left - reach), _ZERO))
    right = x + (-b * dy_right + root_right) / a
    left = x + (-b * dy_left - root_left) / a
    # Pixel centres of tile t span 16 t + 0.5 to 16 t + 15.5; truncation is floor where it matters.
    width = np.float32(TILE * tiles_x)
    if right < _HALF or left > width:
        return 0, 0
    first = int(max(left - np.float32(TILE - 0.5), -_ONE) / np.float32(TILE) + _ONE)
    behind = int((min(right, width) - _HALF) / np.float32(TILE)) + 1
    return max(first, 0), min(behind, tiles_x)


@njit(inline="always")
def _row_range(y, half_height, tiles_y):
    """First row of tiles and the one behind the last that a Gaussian may reach."""
    height = np.float32(TILE * tiles_y)
    if y + half_height < _HALF or y - half_height > height:
        return 0, 0
    first = int(max(y - half_height - np.float32(TILE - 0.5), -_ONE) / np.float32(TILE) + _ONE)
    behind = int((min(y + half_height, height) - _HALF) / np.float32(TILE)) + 1
    return max(first, 0), min(behind, tiles_y)


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
    threads,
):
    """Fills records [N, 10], depths [N], tile counts [N], half heights [N] and radii [N].

    A Gaussian that cannot be seen, or is not finite, gets count 0 and radius 0.
    """
    total = means.shape[0]
    used = (degree + 1) * (degree + 1) - 1
    for thread in prange(threads):
        cam, rotation, scale = np.empty(3, np.float32), np.empty(9, np.float32), np.empty(3, np.float32)
        factor, jw, values = np.empty(6, np.float32), np.empty(6, np.float32), np.zeros(15, np.float32)
        for i in range(total * thread // threads, total * (thread + 1) // threads):
            counts[i], radii[i] = 0, _ZERO
            seen, _, _, _, _, _ = _view(
                camera, means[i], log_scales[i], quats[i], cam, rotation, scale, factor, jw
            )
            depths[i] = cam[2]
            if not seen:
                continue
            opacity = _ONE / (_ONE + math.exp(-opacity_logits[i]))
            xx = factor[0] * factor[0] + factor[1] * factor[1] + factor[2] * factor[2] + _LOW_PASS
            xy = factor[0] * factor[3] + factor[1] * factor[4] + factor[2] * factor[5]
            yy = factor[3] * factor[3] + factor[4] * factor[4] + factor[5] * factor[5] + _LOW_PASS
            det = xx * yy - xy * xy
            if not (opacity >= _ALPHA_MIN and det > _ZERO and det < np.float32(1e30)):
                continue
            x = camera[12] * cam[0] / cam[2] + camera[14]
            y = camera[13] * cam[1] / cam[2] + camera[15]
            if not (abs(x) < _FAR and abs(y) < _FAR):
                continue
            limit = math.log(opacity / _ALPHA_MIN)
            a, b, c = yy / det, -xy / det, xx / det
            half_height = math.sqrt(_TWO * limit * yy)
            first_row, behind_row = _row_range(y, half_height, tiles_y)
            count = 0
            for row in range(first_row, behind_row):
                first, behind = _span(a, b, c, limit, x, y, row, tiles_x)
                count += max(0, behind - first)
            if count == 0:
                continue
            dx, dy, dz = means[i, 0] - camera[18], means[i, 1] - camera[19], means[i, 2] - camera[20]
            inverse = _ONE / max(math.sqrt(dx * dx + dy * dy + dz * dz), np.float32(1e-12))
            basis(degree, dx * inverse, dy * inverse, dz * inverse, values)
            record = records[i]
            for channel in range(3):
                color = _HALF + C0 * sh0[i, channel]
                for k in range(used):
                    color += values[k] * sh_rest[i, k, channel]
                record[6 + channel] = color if color > _ZERO else _ZERO
            record[0], record[1], record[2], record[3], record[4] = x, y, a, b, c
            record[5], record[9] = opacity, limit
            counts[i], half_heights[i] = count, half_height
            middle = _HALF * (xx + yy)
            radii[i] = math.ceil(
                np.float32(3) * math.sqrt(middle + math.sqrt(max(middle * middle - det, _ZERO)))
            )


@njit(parallel=True, cache=True)
def list_tiles(records, half_heights, counts, offsets, tiles_x, tiles_y, tile_ids, threads):
    """Writes the tiles that each Gaussian reaches behind its offset; answers nothing.

    Where rounding gives fewer than were counted, the rest repeats the last one's tile as -1.
    """
    total = counts.shape[0]
    for thread in prange(threads):
        for i in range(total * thread // threads, total * (thread + 1) // threads):
            if counts[i] == 0:
                continue
            g = records[i]
            at, end = offsets[i], offsets[i] + counts[i]
            first_row, behind_row = _row_range(g[1], half_heights[i], tiles_y)
            for row in range(first_row, behind_row):
                first, behind = _span(g[2], g[3], g[4], g[9], g[0], g[1], row, tiles_x)
                for column in range(first, behind):
                    if at < end:
                        tile_ids[at] = row * tiles_x + column
                        at += 1
            for k in range(at, end):
                tile_ids[k] = -1


@njit(inline="always", fastmath=True)
def _quaternion_gradient(quat, norm, dr, out):
    w, x, y, z = quat[0] / norm, quat[1] / norm, quat[2] / norm, quat[3] / norm
    dw = _TWO * (-z * dr[1] + y * dr[2] + z * dr[3] - x * dr[5] - y * dr[6] + x * dr[7])
    dx = _TWO * (
        y * dr[1]
        + z * dr[2]
        + y * dr[3]
        - _TWO * x * dr[4]
        - w * dr[5]
        + z * dr[6]
        + w * dr[7]
        - _TWO * x * dr[8]
    )
    dy = _TWO * (
        -_TWO * y * dr[0]
        + x * dr[1]
        + w * dr[2]
        + x * dr[3]
        + z * dr[5]
        - w * dr[6]
        + z * dr[7]
        - _TWO * y * dr[8]
    )
    dz = _TWO * (
        -_TWO * z * dr[0]
        - w * dr[1]
        + x * dr[2]
        + w * dr[3]
        - _TWO * z * dr[4]
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
    fx, fy, inverse = camera[12], camera[13], _ONE / cam[2]
    j00, j02, j11, j12 = _ZERO, _ZERO, _ZERO, _ZERO
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
        gz += _TWO * j02 * fx * sx * inverse * inverse
    if clamped_y:
        gz += j12 * fy * sy * inverse * inverse
    else:
        gy -= j12 * fy * inverse * inverse
        gz += _TWO * j12 * fy * sy * inverse * inverse
    for k in range(3):
        out[k] += camera[k] * gx + camera[4 + k] * gy + camera[8 + k] * gz


@njit(inline="always", fastmath={"contract", "reassoc", "nsz"})
def _harmonics_gradient(
    camera, mean, degree, coefficients, d_color, values, weights, slope, d_coefficients, d_mean
):
    """Gradient by the higher harmonics, and by the mean through the direction of view."""
    dx, dy, dz = mean[0] - camera[18], mean[1] - camera[19], mean[2] - camera[20]
    inverse = _ONE / max(math.sqrt(dx * dx + dy * dy + dz * dz), np.float32(1e-12))
    dx, dy, dz = dx * inverse, dy * inverse, dz * inverse
    basis(degree, dx, dy, dz, values)
    for k in range((degree + 1) * (degree + 1) - 1):
        weights[k] = _ZERO
        for channel in range(3):
            weights[k] += coefficients[k, channel] * d_color[channel]
            d_coefficients[k, channel] = values[k] * d_color[channel]
    direction_gradient(degree, dx, dy, dz, weights, slope)
    along = slope[0] * dx + slope[1] * dy + slope[2] * dz
    d_mean[0] += (slope[0] - along * dx) * inverse
    d_mean[1] += (slope[1] - along * dy) * inverse
    d_mean[2] += (slope[2] - along * dz) * inverse


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
    positions,
    pair_gradients,
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
        offsets: [N] where its pairs stand in ``positions``.
        positions: [pairs] where they stand in ``pair_gradients``; -1 for none.
        pair_gradients: [pairs, 9].
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
                _ZERO,
                _ZERO,
                _ZERO,
                _ZERO,
                _ZERO,
            )
            d_opacity_logits[i], norms[i] = _ZERO, _ZERO
            if counts[i] == 0:
                continue
            g[:] = _ZERO
            for k in range(offsets[i], offsets[i] + counts[i]):
                if positions[k] >= 0:
                    pair = pair_gradients[positions[k]]
                    for j in range(9):
                        g[j] += pair[j]
            _, sx, sy, clamped_x, clamped_y, norm = _view(
                camera, means[i], log_scales[i], quats[i], cam, rotation, scale, factor, jw
            )
            r = records[i]
            norms[i] = _HALF * math.sqrt((g[0] * camera[16]) ** 2 + (g[1] * camera[17]) ** 2)
            d_opacity_logits[i] = g[5] * r[5] * (_ONE - r[5])
            for channel in range(3):
                d_color[channel] = g[6 + channel] if r[6 + channel] > _ZERO else _ZERO
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
            # d cov = - conic (d conic) conic, both symmetric.
            a, b, c, da, db, dc = r[2], r[3], r[4], g[2], _HALF * g[3], g[4]
            m0, m1, m2, m3 = a * da + b * db, a * db + b * dc, b * da + c * db, b * db + c * dc
            xx, xy, yy = -(m0 * a + m1 * b), -(m0 * b + m1 * c), -(m2 * b + m3 * c)
            for k in range(3):
                d_factor[k] = _TWO * (xx * factor[k] + xy * factor[3 + k])
                d_factor[3 + k] = _TWO * (xy * factor[k] + yy * factor[3 + k])
            d_jw[:] = _ZERO
            for k in range(3):
                d_scale = _ZERO
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
