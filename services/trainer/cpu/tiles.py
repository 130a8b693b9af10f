"""Which tiles of the picture a projected Gaussian reaches, by the exact extent of its ellipse."""

# ruff: noqa: E402, I001
# mypy: ignore-errors
# numba gives the kernels their types; annotations would describe no compiled call.
from __future__ import annotations

from services.trainer.cpu import environment  # noqa: F401  (before numba)

import math

import numpy as np
from numba import njit, prange

from services.trainer.cpu.view import HALF, ONE, TWO, ZERO

TILE = 16


@njit(inline="always")
def span(a, b, c, limit, x, y, row, tiles_x):
    """First tile and the one behind the last that the ellipse reaches in a row of tiles.

    Power is 0.5 (a dx^2 + 2 b dx dy + c dy^2) <= limit. The right end at a given dy is
    (-b dy + sqrt(b^2 dy^2 - a (c dy^2 - 2 limit))) / a, furthest at the ellipse's own
    extreme, clamped to the dy of the row's first and last pixel centre.
    """
    low = np.float32(row * TILE) + HALF - y
    high = low + np.float32(TILE - 1)
    reach, det = TWO * limit, a * c - b * b
    half_height = math.sqrt(reach * a / det)
    if low > half_height or high < -half_height:
        return 0, 0
    extreme = -b / c * math.sqrt(reach * c / det)
    dy_right, dy_left = min(max(extreme, low), high), min(max(-extreme, low), high)
    root_right = math.sqrt(max(b * b * dy_right * dy_right - a * (c * dy_right * dy_right - reach), ZERO))
    root_left = math.sqrt(max(b * b * dy_left * dy_left - a * (c * dy_left * dy_left - reach), ZERO))
    right = x + (-b * dy_right + root_right) / a
    left = x + (-b * dy_left - root_left) / a
    # Pixel centres of tile t span 16 t + 0.5 to 16 t + 15.5; truncation is floor where it matters.
    width = np.float32(TILE * tiles_x)
    if right < HALF or left > width:
        return 0, 0
    first = int(max(left - np.float32(TILE - 0.5), -ONE) / np.float32(TILE) + ONE)
    behind = int((min(right, width) - HALF) / np.float32(TILE)) + 1
    return max(first, 0), min(behind, tiles_x)


@njit(inline="always")
def row_range(y, half_height, tiles_y):
    """First row of tiles and the one behind the last that a Gaussian may reach."""
    height = np.float32(TILE * tiles_y)
    if y + half_height < HALF or y - half_height > height:
        return 0, 0
    first = int(max(y - half_height - np.float32(TILE - 0.5), -ONE) / np.float32(TILE) + ONE)
    behind = int((min(y + half_height, height) - HALF) / np.float32(TILE)) + 1
    return max(first, 0), min(behind, tiles_y)


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
            first_row, behind_row = row_range(g[1], half_heights[i], tiles_y)
            for row in range(first_row, behind_row):
                first, behind = span(g[2], g[3], g[4], g[9], g[0], g[1], row, tiles_x)
                for column in range(first, behind):
                    if at < end:
                        tile_ids[at] = row * tiles_x + column
                        at += 1
            for k in range(at, end):
                tile_ids[k] = -1
