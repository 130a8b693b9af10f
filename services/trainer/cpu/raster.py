"""Compositing of all tiles and its gradient; a thread takes every n-th tile."""

# ruff: noqa: E402, I001
from __future__ import annotations

from services.trainer.cpu import environment  # noqa: F401  (before numba)

import numpy as np
from numba import njit, prange

from services.trainer.cpu.vector_ir import any_positive, composite_rows, differentiate_rows

TILE = 16
STATE_FLOATS = 5 * 256
RECORD = 10  # floats of a projected Gaussian: x y a b c opacity red green blue limit
_CHECK_EVERY = 16


@njit(inline="always")
def _rows(y: np.float32, half_height: np.float32, top: int) -> tuple[int, int]:
    """Rows of a tile whose pixel centres lie within the Gaussian's height."""
    first = int(y - half_height - top + np.float32(0.5))
    last = int(y + half_height - top + np.float32(0.5))
    return max(0, first), min(TILE, last)


@njit(parallel=True, cache=True, fastmath=True)
def rasterize_forward(
    records, half_heights, ranges, lists, tiles_x, width, height, background, scratch, picture
):
    """Composites.

    Args:
        records: [N, 10] float32, see RECORD.
        half_heights: [N] float32, pixels that the Gaussian reaches up and down.
        ranges: [tiles + 1] int32, where each tile's list begins.
        lists: [pairs] int32, Gaussians by tile, nearest first.
        tiles_x: Tiles in a row.
        width: Pixels.
        height: Pixels.
        background: [3] float32.
        scratch: [threads, STATE_FLOATS] float32, 64-byte aligned.
        picture: [3, height, width] float32, written.
    """
    threads = scratch.shape[0]
    tiles = ranges.shape[0] - 1
    for thread in prange(threads):
        state = scratch[thread]
        address = state.ctypes.data
        for tile in range(thread, tiles, threads):
            left, top = (tile % tiles_x) * TILE, (tile // tiles_x) * TILE
            state[:256] = 1.0
            state[256:] = 0.0
            for at in range(ranges[tile], ranges[tile + 1]):
                if (at - ranges[tile]) % _CHECK_EVERY == _CHECK_EVERY - 1 and not any_positive(address):
                    break
                n = lists[at]
                g = records[n]
                first, last = _rows(g[1], half_heights[n], top)
                composite_rows(
                    address, first, last, g[0] - np.float32(left + 0.5), g[1] - np.float32(top + 0.5),
                    np.float32(0.5) * g[2], g[3], np.float32(0.5) * g[4], g[5], g[9], g[6], g[7], g[8],
                )  # fmt: skip
            for row in range(min(TILE, height - top)):
                for lane in range(min(TILE, width - left)):
                    k = row * TILE + lane
                    behind = state[k] + state[1024 + k]
                    for c in range(3):
                        picture[c, top + row, left + lane] = state[256 * (c + 1) + k] + behind * background[c]


@njit(parallel=True, cache=True, fastmath=True)
def rasterize_backward(
    records, half_heights, ranges, lists, slots, tiles_x, width, height, picture, gradient, scratch,
    pair_gradients,
):  # fmt: skip
    """The gradient of ``rasterize_forward`` by the records, front to back.

    Each Gaussian's pairs end up next to each other: scattered writes wait for nobody, where
    ``project_backward`` would wait for every scattered read.

    Args:
        records: As there.
        half_heights: As there.
        ranges: As there.
        lists: As there.
        slots: [pairs] int32, where the gradient of each entry of ``lists`` goes.
        tiles_x: As there.
        width: As there.
        height: As there.
        picture: [3, height, width] float32, what it wrote.
        gradient: [3, height, width] float32, d loss / d picture.
        scratch: [threads, STATE_FLOATS] float32, 64-byte aligned.
        pair_gradients: [pairs, 9] float32, written.
    """
    threads = scratch.shape[0]
    tiles = ranges.shape[0] - 1
    for thread in prange(threads):
        state = scratch[thread]
        address = state.ctypes.data
        for tile in range(thread, tiles, threads):
            left, top = (tile % tiles_x) * TILE, (tile // tiles_x) * TILE
            state[:] = 0.0
            for row in range(min(TILE, height - top)):
                for lane in range(min(TILE, width - left)):
                    k = row * TILE + lane
                    state[k] = 1.0
                    for c in range(3):
                        slope = gradient[c, top + row, left + lane]
                        state[256 * (c + 2) + k] = slope
                        state[256 + k] += slope * picture[c, top + row, left + lane]
            done = ranges[tile + 1]
            for at in range(ranges[tile], ranges[tile + 1]):
                if (at - ranges[tile]) % _CHECK_EVERY == _CHECK_EVERY - 1 and not any_positive(address):
                    done = at
                    break
                n = lists[at]
                g = records[n]
                first, last = _rows(g[1], half_heights[n], top)
                differentiate_rows(
                    address, first, last, g[0] - np.float32(left + 0.5), g[1] - np.float32(top + 0.5),
                    np.float32(0.5) * g[2], g[3], np.float32(0.5) * g[4], g[5], g[9], g[6], g[7], g[8],
                    pair_gradients[slots[at]].ctypes.data,
                )  # fmt: skip
            for at in range(done, ranges[tile + 1]):
                pair_gradients[slots[at]] = 0.0
