"""Projection of Gaussians to the picture, sixteen at a time, and the tiles that each reaches.

EWA splatting (Zwicker et al. 2001) as in 3D Gaussian Splatting (Kerbl et al. 2023):
cov2d = J W S W^T J^T + 0.3 I, J the Jacobian of the pinhole projection at the mean.
"""

# ruff: noqa: E402, I001
# mypy: ignore-errors
# numba gives the kernels their types; annotations would describe no compiled call.
from __future__ import annotations

from services.trainer.cpu import environment  # noqa: F401  (before numba)

import numpy as np
from numba import njit, prange

from services.trainer.cpu.antialias import compensation
from services.trainer.cpu.harmonics import C0, basis
from services.trainer.cpu.lanes import absolute, ceil, dot, exp, kernel_of_lanes, log, sqrt
from services.trainer.cpu.tiles import row_range, span
from services.trainer.cpu.vector_ir import LANES
from services.trainer.cpu.view import ALPHA_MIN, FAR, LOW_PASS, direction, view

RECORD = 10  # x y a b c opacity red green blue limit
# Planes of a block. Read: mean, log scale, quaternion, opacity's logit. Written: the rest.
_MEAN, _SCALE, _QUAT, _LOGIT = 0, 3, 6, 10
_SHAPE, _OPACITY, _LIMIT, _HALF_HEIGHT, _DEPTH, _RADIUS, _SEEN, _FULL, _BASIS = (
    11,
    16,
    17,
    18,
    19,
    20,
    21,
    22,
    23,
)
FORWARD_PLANES = _BASIS + 15
_ZERO, _HALF, _FIRST_BASIS = np.float32(0), np.float32(0.5), np.float32(C0)


def _projected(antialiased):
    """Writes the instructions that project a block; ``_SEEN`` is 0 where a Gaussian is not drawn."""

    def write(camera, block):
        mean = block.load(_MEAN, 3)
        seen = view(camera, mean, block.load(_SCALE, 3), block.load(_QUAT, 4))
        upper, lower = seen.factor[:3], seen.factor[3:]
        xx, xy, yy = dot(upper, upper) + LOW_PASS, dot(upper, lower), dot(lower, lower) + LOW_PASS
        det = xx * yy - xy * xy
        (logit,) = block.load(_LOGIT, 1)
        full = 1.0 / (1.0 + exp(-logit))
        opacity = full * compensation(seen.factor) if antialiased else full
        x, y = (
            focal * along * seen.inverse_depth + center
            for focal, along, center in zip(camera[12:14], seen.position[:2], camera[14:16], strict=True)
        )
        drawn = seen.seen & (opacity >= ALPHA_MIN) & (det > 0.0) & (det < 1e30)
        drawn = drawn & (absolute(x) < FAR) & (absolute(y) < FAR)
        limit, inverse, middle = log(opacity * (1 / ALPHA_MIN)), 1.0 / det, 0.5 * (xx + yy)
        block.store(_SHAPE, x, y, yy * inverse, -xy * inverse, xx * inverse)
        block.store(_OPACITY, opacity, limit, sqrt(2.0 * limit * yy), seen.position[2])
        longest = middle + sqrt((middle * middle - det).at_least(0.0))
        block.store(_RADIUS, ceil(3.0 * sqrt(longest)), drawn.choose(1.0, 0.0), full)
        block.store(_BASIS, *basis(*direction(camera, mean)[0]))

    return write


_project = kernel_of_lanes(_projected(antialiased=False))
_project_antialiased = kernel_of_lanes(_projected(antialiased=True))


@njit(inline="always")
def _load(block, lane, i, means, log_scales, quats, opacity_logits):
    for k in range(3):
        block[_MEAN + k, lane] = means[i, k]
        block[_SCALE + k, lane] = log_scales[i, k]
    for k in range(4):
        block[_QUAT + k, lane] = quats[i, k]
    block[_LOGIT, lane] = opacity_logits[i]


@njit(inline="always", fastmath={"contract", "reassoc", "nsz"})
def _record(block, lane, first, rest, record):
    """Writes the rasteriser's record of a Gaussian of harmonics ``first`` [3] and ``rest`` [K, 3]."""
    for k in range(5):
        record[k] = block[_SHAPE + k, lane]
    record[5], record[9] = block[_OPACITY, lane], block[_LIMIT, lane]
    for channel in range(3):
        color = _HALF + _FIRST_BASIS * first[channel]
        for k in range(rest.shape[0]):
            color += block[_BASIS + k, lane] * rest[k, channel]
        record[6 + channel] = max(color, _ZERO)


@njit(inline="always")
def _reached(block, lane, tiles_x, tiles_y, tile_ids, at):
    """Writes the tiles that a Gaussian reaches from ``at`` on where there is room; answers their number."""
    y, half_height = block[_SHAPE + 1, lane], block[_HALF_HEIGHT, lane]
    first_row, behind_row = row_range(y, half_height, tiles_y)
    end = at
    for row in range(first_row, behind_row):
        first, behind = span(
            block[_SHAPE + 2, lane], block[_SHAPE + 3, lane], block[_SHAPE + 4, lane], block[_LIMIT, lane],
            block[_SHAPE, lane], y, row, tiles_x,
        )  # fmt: skip
        for column in range(first, behind):
            if end < tile_ids.shape[0]:
                tile_ids[end] = row * tiles_x + column
            end += 1
    return end - at


@njit(parallel=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
def project_forward(
    camera, means, log_scales, quats, opacity_logits, sh0, sh_rest, degree, tiles_x, tiles_y,
    records, depths, counts, offsets, half_heights, radii, full_opacities, tile_ids, needed, blocks,
):  # fmt: skip
    """Projects all Gaussians and lists their tiles.

    A Gaussian that cannot be seen, or is not finite, gets count 0 and radius 0. Antialiased
    where ``full_opacities`` is not None; numba compiles the two cases apart.

    Args:
        camera: [21].
        means: [N, 3].
        log_scales: [N, 3].
        quats: [N, 4].
        opacity_logits: [N].
        sh0: [N, 3].
        sh_rest: [N, K - 1, 3].
        degree: In use.
        tiles_x: Tiles in a row.
        tiles_y: Rows of tiles.
        records: [N, 10], written where the count is not 0.
        depths: [N], written.
        counts: [N] int32, written: tiles of each.
        offsets: [N] int64, written where the count is not 0: its first place in the flat ``tile_ids``.
        half_heights: [N], written where the count is not 0: pixels it reaches up and down.
        radii: [N], written: three standard deviations, pixels.
        full_opacities: [N] or None, written: opacities before the factor rho.
        tile_ids: [threads, room] int32, written.
        needed: [threads] int64, written: places that were needed, perhaps more than there is room.
        blocks: [threads, FORWARD_PLANES, 16] scratch, 64-byte aligned.
    """
    total, threads, room = means.shape[0], tile_ids.shape[0], tile_ids.shape[1]
    used = (degree + 1) * (degree + 1) - 1
    for thread in prange(threads):
        block, ids, at = blocks[thread], tile_ids[thread], 0
        behind = total * (thread + 1) // threads
        for begin in range(total * thread // threads, behind, LANES):
            lanes = min(LANES, behind - begin)
            for lane in range(lanes):
                _load(block, lane, begin + lane, means, log_scales, quats, opacity_logits)
            if full_opacities is None:
                _project(camera.ctypes.data, block.ctypes.data)
            else:
                _project_antialiased(camera.ctypes.data, block.ctypes.data)
            for lane in range(lanes):
                i = begin + lane
                counts[i], radii[i], depths[i] = 0, _ZERO, block[_DEPTH, lane]
                if block[_SEEN, lane] == _ZERO:
                    continue
                count = _reached(block, lane, tiles_x, tiles_y, ids, at)
                if count == 0:
                    continue
                counts[i], offsets[i] = count, thread * room + at
                at += count
                if full_opacities is not None:
                    full_opacities[i] = block[_FULL, lane]
                half_heights[i], radii[i] = block[_HALF_HEIGHT, lane], block[_RADIUS, lane]
                _record(block, lane, sh0[i], sh_rest[i, :used], records[i])
        needed[thread] = at
