"""Which tiles of the picture a projected Gaussian reaches, by the exact extent of its ellipse."""

# ruff: noqa: E402, I001
# mypy: ignore-errors
# numba gives the kernels their types; annotations would describe no compiled call.
from __future__ import annotations

from services.trainer.cpu import environment  # noqa: F401  (before numba)

import math

import numpy as np
from numba import njit

TILE = 16
_ZERO, _HALF, _ONE, _TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)


@njit(inline="always")
def span(a, b, c, limit, x, y, row, tiles_x):
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
def row_range(y, half_height, tiles_y):
    """First row of tiles and the one behind the last that a Gaussian may reach."""
    height = np.float32(TILE * tiles_y)
    if y + half_height < _HALF or y - half_height > height:
        return 0, 0
    first = int(max(y - half_height - np.float32(TILE - 0.5), -_ONE) / np.float32(TILE) + _ONE)
    behind = int((min(y + half_height, height) - _HALF) / np.float32(TILE)) + 1
    return max(first, 0), min(behind, tiles_y)
