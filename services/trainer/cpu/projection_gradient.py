"""The gradient of ``projection``: from projected Gaussians back to their parameters, sixteen at a time."""

# ruff: noqa: E402, I001
# mypy: ignore-errors
# numba gives the kernels their types; annotations would describe no compiled call.
from __future__ import annotations

from services.trainer.cpu import environment  # noqa: F401  (before numba)

import numpy as np
from numba import njit, prange

from services.trainer.cpu.antialias import compensation_gradient
from services.trainer.cpu.harmonics import C0, basis, direction_gradient
from services.trainer.cpu.lanes import dot, kernel_of_lanes, sqrt
from services.trainer.cpu.vector_ir import LANES
from services.trainer.cpu.view import direction, view

# Planes of a block. Read: mean, log scale, quaternion, conic, opacity as drawn and before the
# factor rho, the nine sums of pair gradients, the harmonics' coefficients times the colour's gradient.
_MEAN, _SCALE, _QUAT, _CONIC, _OPACITY, _FULL, _SUMS, _WEIGHTS = 0, 3, 6, 10, 13, 14, 15, 24
# Written: gradients by mean, log scale, quaternion and logit, the norm, the harmonics' values.
_D_MEAN, _D_SCALE, _D_QUAT, _D_LOGIT, _NORM, _BASIS = 39, 42, 45, 49, 50, 51
BACKWARD_PLANES = _BASIS + 15
_ZERO, _FIRST_BASIS = np.float32(0), np.float32(C0)


def _quaternion_gradient(unit, inverse_norm, dr):
    """Gradient by the quaternion as it was, [4], from that by the rotation matrix, [9]."""
    w, x, y, z = unit
    raw = [
        2.0 * (z * (dr[3] - dr[1]) + y * (dr[2] - dr[6]) + x * (dr[7] - dr[5])),
        2.0 * (y * (dr[1] + dr[3]) + z * (dr[2] + dr[6]) + w * (dr[7] - dr[5]) - 2.0 * x * (dr[4] + dr[8])),
        2.0 * (x * (dr[1] + dr[3]) + z * (dr[5] + dr[7]) + w * (dr[2] - dr[6]) - 2.0 * y * (dr[0] + dr[8])),
        2.0 * (x * (dr[2] + dr[6]) + y * (dr[5] + dr[7]) + w * (dr[3] - dr[1]) - 2.0 * z * (dr[0] + dr[4])),
    ]
    along = dot(raw, unit)
    return [(each - along * own) * inverse_norm for each, own in zip(raw, unit, strict=True)]


def _mean_gradient(camera, seen, d_jw, d_center):
    """What the projected mean and the Jacobian pass on to the mean, [3]."""
    inverse = seen.inverse_depth
    square = inverse * inverse
    by_depth = 0.0
    sides = []
    for row, d_along in enumerate(d_center):
        focal, slope, free = camera[12 + row], seen.slopes[row], seen.free[row]
        diagonal = dot(d_jw[3 * row : 3 * row + 3], camera[4 * row : 4 * row + 3])
        # The Jacobian's last column is -f slope / z; a held slope does not depend on the mean.
        last = dot(d_jw[3 * row : 3 * row + 3], camera[8:11]) * focal * square
        direct = d_along * focal * inverse
        sides.append(direct - free.choose(last, 0.0))
        by_depth = by_depth - direct * seen.position[row] * inverse - diagonal * focal * square
        by_depth = by_depth + free.choose(2.0 * last, last) * slope
    frame = [*sides, by_depth]
    return [dot(frame, [camera[k], camera[4 + k], camera[8 + k]]) for k in range(3)]


def _factor_gradient(conic, sums, factor):
    """Gradient by J W R S, [6], from that of the conic."""
    # d cov = - conic (d conic) conic, both symmetric.
    (a, b, c), da, db, dc = conic, sums[2], 0.5 * sums[3], sums[4]
    m0, m1, m2, m3 = a * da + b * db, a * db + b * dc, b * da + c * db, b * db + c * dc
    xx, xy, yy = -(m0 * a + m1 * b), -(m0 * b + m1 * c), -(m2 * b + m3 * c)
    upper, lower = factor[:3], factor[3:]
    return [
        *(2.0 * (xx * f + xy * g) for f, g in zip(upper, lower, strict=True)),
        *(2.0 * (xy * f + yy * g) for f, g in zip(upper, lower, strict=True)),
    ]


def _split_factor(seen, d_factor):
    """Gradients by J W [6], the rotation [9] and the log scales [3]."""
    d_jw, d_rotation, d_scale = [0.0] * 6, [0.0] * 9, [0.0] * 3
    for k in range(3):
        for j in range(3):
            side = seen.rotation[3 * j + k] * seen.scale[k]
            d_jw[j] = d_jw[j] + d_factor[k] * side
            d_jw[3 + j] = d_jw[3 + j] + d_factor[3 + k] * side
            d_side = seen.jw[j] * d_factor[k] + seen.jw[3 + j] * d_factor[3 + k]
            d_scale[k] = d_scale[k] + d_side * side
            d_rotation[3 * j + k] = d_side * seen.scale[k]
    return d_jw, d_rotation, d_scale


def _differentiated(antialiased):
    """Writes the instructions that differentiate a block."""

    def write(camera, block):
        mean, sums, conic = block.load(_MEAN, 3), block.load(_SUMS, 9), block.load(_CONIC, 3)
        seen = view(camera, mean, block.load(_SCALE, 3), block.load(_QUAT, 4))
        opacity, full = block.load(_OPACITY, 2)
        d_factor = _factor_gradient(conic, sums, seen.factor)
        if antialiased:
            faded = compensation_gradient(seen.factor, sums[5] * opacity)
            d_factor = [a + b for a, b in zip(d_factor, faded, strict=True)]
        d_jw, d_rotation, d_scale = _split_factor(seen, d_factor)
        d_mean = _mean_gradient(camera, seen, d_jw, sums[:2])
        along, inverse = direction(camera, mean)
        slope = direction_gradient(*along, block.load(_WEIGHTS, 15))
        forward = dot(slope, along)
        d_mean = [d + (s - forward * a) * inverse for d, s, a in zip(d_mean, slope, along, strict=True)]
        block.store(
            _D_MEAN, *d_mean, *d_scale, *_quaternion_gradient(seen.quat, seen.inverse_norm, d_rotation)
        )
        ndc = [sums[0] * camera[16], sums[1] * camera[17]]
        block.store(_D_LOGIT, sums[5] * opacity * (1.0 - full), 0.5 * sqrt(dot(ndc, ndc)))
        block.store(_BASIS, *basis(*along))

    return write


_differentiate = kernel_of_lanes(_differentiated(antialiased=False))
_differentiate_antialiased = kernel_of_lanes(_differentiated(antialiased=True))


@njit(inline="always", fastmath={"contract", "reassoc", "nsz"})
def _load(block, lane, i, means, log_scales, quats, record, full_opacity, gradients):
    """Reads a Gaussian and the sum of its pairs' ``gradients`` [pairs, 9]."""
    for k in range(3):
        block[_MEAN + k, lane] = means[i, k]
        block[_SCALE + k, lane] = log_scales[i, k]
        block[_CONIC + k, lane] = record[2 + k]
    for k in range(4):
        block[_QUAT + k, lane] = quats[i, k]
    block[_OPACITY, lane], block[_FULL, lane] = record[5], full_opacity
    for j in range(9):
        block[_SUMS + j, lane] = _ZERO
    for k in range(gradients.shape[0]):
        for j in range(9):
            block[_SUMS + j, lane] += gradients[k, j]


@njit(inline="always", fastmath={"contract", "reassoc", "nsz"})
def _weigh(block, lane, record, rest, d_color, d_first):
    """Writes the gradients by the colour [3] and the first harmonic [3], and weighs the others by it."""
    for channel in range(3):
        d_color[channel] = block[_SUMS + 6 + channel, lane] if record[6 + channel] > _ZERO else _ZERO
        d_first[channel] = _FIRST_BASIS * d_color[channel]
    for k in range(rest.shape[0]):
        weight = rest[k, 0] * d_color[0] + rest[k, 1] * d_color[1] + rest[k, 2] * d_color[2]
        block[_WEIGHTS + k, lane] = weight


@njit(inline="always")
def _store(block, lane, i, used, d_color, d_means, d_log_scales, d_quats, d_opacity_logits, d_rest, norms):
    for k in range(3):
        d_means[i, k] = block[_D_MEAN + k, lane]
        d_log_scales[i, k] = block[_D_SCALE + k, lane]
    for k in range(4):
        d_quats[i, k] = block[_D_QUAT + k, lane]
    d_opacity_logits[i], norms[i] = block[_D_LOGIT, lane], block[_NORM, lane]
    for k in range(used):
        for channel in range(3):
            d_rest[k, channel] = block[_BASIS + k, lane] * d_color[channel]
    for k in range(used, d_rest.shape[0]):
        for channel in range(3):
            d_rest[k, channel] = _ZERO


@njit(parallel=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
def project_backward(
    camera, means, log_scales, quats, sh_rest, degree, records, counts, offsets, pair_gradients,
    full_opacities, d_means, d_log_scales, d_quats, d_opacity_logits, d_sh0, d_sh_rest, norms, blocks,
):  # fmt: skip
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
        pair_gradients: [places, 9].
        full_opacities: [N] of the forward pass where it was antialiased, else None.
        d_means: [N, 3], written, as are all that follow.
        d_log_scales: [N, 3].
        d_quats: [N, 4].
        d_opacity_logits: [N].
        d_sh0: [N, 3].
        d_sh_rest: [N, K - 1, 3].
        norms: [N] norm of the gradient by the projected mean, NDC units.
        blocks: [threads, BACKWARD_PLANES, 16] scratch, 64-byte aligned.
    """
    total, threads = means.shape[0], blocks.shape[0]
    used = (degree + 1) * (degree + 1) - 1
    for thread in prange(threads):
        block = blocks[thread]
        members, d_color = np.empty(LANES, np.int64), np.empty((LANES, 3), np.float32)
        block[_WEIGHTS : _WEIGHTS + 15] = _ZERO
        lanes, behind = 0, total * (thread + 1) // threads
        for i in range(total * thread // threads, behind):
            if counts[i] == 0:
                d_means[i], d_log_scales[i], d_quats[i] = _ZERO, _ZERO, _ZERO
                d_sh0[i], d_sh_rest[i] = _ZERO, _ZERO
                d_opacity_logits[i], norms[i] = _ZERO, _ZERO
            else:
                members[lanes] = i
                full = records[i, 5] if full_opacities is None else full_opacities[i]
                pairs = pair_gradients[offsets[i] : offsets[i] + counts[i]]
                _load(block, lanes, i, means, log_scales, quats, records[i], full, pairs)
                _weigh(block, lanes, records[i], sh_rest[i, :used], d_color[lanes], d_sh0[i])
                lanes += 1
            if lanes < LANES and i + 1 < behind:
                continue
            if full_opacities is None:
                _differentiate(camera.ctypes.data, block.ctypes.data)
            else:
                _differentiate_antialiased(camera.ctypes.data, block.ctypes.data)
            for lane in range(lanes):
                n = members[lane]
                _store(
                    block, lane, n, used, d_color[lane],
                    d_means, d_log_scales, d_quats, d_opacity_logits, d_sh_rest[n], norms,
                )  # fmt: skip
            lanes = 0
