"""(1 - w) L1 + w (1 - SSIM) and its gradient by the picture.

SSIM of Wang et al. 2004: Gaussian window 11 x 11, sigma 1.5, zero padding. With window
means mu, p = E[x^2], q = E[x y] the map is m = A B / (C D), A = 2 mu1 mu2 + C1,
B = 2 (q - mu1 mu2) + C2, C = mu1^2 + mu2^2 + C1, D = var1 + var2 + C2; its derivatives by
mu1, p and q, convolved with the same window, give the gradient by x. A thread takes a band
of rows and keeps the last eleven horizontally convolved rows in a ring. A photo's fourth
channel, where it has one, is a weight that both pictures are multiplied with first.
"""

# ruff: noqa: E402, I001
from __future__ import annotations

from services.trainer.cpu import environment  # noqa: F401  (before numba)

import numpy as np
from numba import njit, prange

_REACH = 5
_TAPS = 2 * _REACH + 1


def _window() -> np.ndarray:
    offsets = np.arange(_TAPS) - _REACH
    window = np.exp(-(offsets**2) / (2 * 1.5**2))
    return (window / window.sum()).astype(np.float32)


_W0, _W1, _W2, _W3, _W4, _W5 = (np.float32(w) for w in _window()[: _REACH + 1])
_C1, _C2 = np.float32(0.01**2), np.float32(0.03**2)
_BYTE = np.float32(1 / 255)
_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)


@njit(inline="always", fastmath=True)
def _blur_row(row, out):
    """Convolves a row padded by five on both sides; symmetric taps share a product."""
    for x in range(out.shape[0]):
        out[x] = (
            _W0 * (row[x] + row[x + 10])
            + _W1 * (row[x + 1] + row[x + 9])
            + _W2 * (row[x + 2] + row[x + 8])
            + _W3 * (row[x + 3] + row[x + 7])
            + _W4 * (row[x + 4] + row[x + 6])
            + _W5 * row[x + 5]
        )


@njit(inline="always", fastmath=True)
def _blur_column(ring, y, out):
    """Convolves eleven rows of a ring around row y."""
    r0, r10 = ring[(y - 5) % 11], ring[(y + 5) % 11]
    r1, r9 = ring[(y - 4) % 11], ring[(y + 4) % 11]
    r2, r8 = ring[(y - 3) % 11], ring[(y + 3) % 11]
    r3, r7 = ring[(y - 2) % 11], ring[(y + 2) % 11]
    r4, r6 = ring[(y - 1) % 11], ring[(y + 1) % 11]
    r5 = ring[y % 11]
    for x in range(out.shape[0]):
        out[x] = (
            _W0 * (r0[x] + r10[x])
            + _W1 * (r1[x] + r9[x])
            + _W2 * (r2[x] + r8[x])
            + _W3 * (r3[x] + r7[x])
            + _W4 * (r4[x] + r6[x])
            + _W5 * r5[x]
        )


@njit(inline="always", fastmath=True)
def _load_row(picture, target, c, y, xs, ys):
    """Reads row y of a channel of both pictures, weighted, into rows padded by five on both sides."""
    width = picture.shape[2]
    for x in range(width):
        xs[x + 5] = picture[c, y, x]
        ys[x + 5] = np.float32(target[y, x, c]) * _BYTE
    if target.shape[2] == 4:
        for x in range(width):
            weight = np.float32(target[y, x, 3]) * _BYTE
            xs[x + 5] *= weight
            ys[x + 5] *= weight


@njit(parallel=True, cache=True, fastmath=True)
def ssim_forward(picture, target, by_mean, by_square, by_product, sums, threads):
    """Derivatives of the SSIM map, and the sums of |x - y| and of the map.

    Args:
        picture: [3, height, width] float32.
        target: [height, width, 3 or 4] uint8.
        by_mean: [3, height, width] float32, written: d map / d mu1.
        by_square: The same by E[x^2].
        by_product: The same by E[x y].
        sums: [threads, 2] float64, written.
        threads: Threads to use.
    """
    _, height, width = picture.shape
    for thread in prange(threads):
        begin, end = height * thread // threads, height * (thread + 1) // threads
        xs, ys = np.zeros(width + 10, np.float32), np.zeros(width + 10, np.float32)
        xx, yy, xy = (
            np.zeros(width + 10, np.float32),
            np.zeros(width + 10, np.float32),
            np.zeros(width + 10, np.float32),
        )
        ring = np.zeros((5, 11, width), np.float32)
        mu1, mu2 = np.empty(width, np.float32), np.empty(width, np.float32)
        p1, p2, q = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
        l1, similarity = 0.0, 0.0
        for c in range(3):
            for y in range(begin - _REACH, end + _REACH):
                if 0 <= y < height:
                    _load_row(picture, target, c, y, xs, ys)
                    if begin <= y < end:
                        row_sum = _ZERO
                        for x in range(5, width + 5):
                            row_sum += abs(xs[x] - ys[x])
                        l1 += row_sum
                    for x in range(5, width + 5):
                        xx[x], yy[x], xy[x] = xs[x] * xs[x], ys[x] * ys[x], xs[x] * ys[x]
                    _blur_row(xs, ring[0, y % 11])
                    _blur_row(ys, ring[1, y % 11])
                    _blur_row(xx, ring[2, y % 11])
                    _blur_row(yy, ring[3, y % 11])
                    _blur_row(xy, ring[4, y % 11])
                else:
                    ring[:, y % 11] = _ZERO
                out = y - _REACH
                if out < begin:
                    continue
                _blur_column(ring[0], out, mu1)
                _blur_column(ring[1], out, mu2)
                _blur_column(ring[2], out, p1)
                _blur_column(ring[3], out, p2)
                _blur_column(ring[4], out, q)
                row_sum = _ZERO
                for x in range(width):
                    u, v = mu1[x], mu2[x]
                    top1, top2 = _TWO * u * v + _C1, _TWO * (q[x] - u * v) + _C2
                    low1, low2 = u * u + v * v + _C1, p1[x] - u * u + p2[x] - v * v + _C2
                    inverse = _ONE / (low1 * low2)
                    value = top1 * top2 * inverse
                    square, product = -value / low2, _TWO * top1 * inverse
                    by_mean[c, out, x] = (
                        _TWO * v * top2 * inverse - _TWO * u * value / low1 - _TWO * u * square - v * product
                    )
                    by_square[c, out, x] = square
                    by_product[c, out, x] = product
                    row_sum += value
                similarity += row_sum
        sums[thread, 0], sums[thread, 1] = l1, similarity


@njit(parallel=True, cache=True, fastmath=True)
def ssim_backward(picture, target, by_mean, by_square, by_product, dssim_weight, gradient, threads):
    """Writes d loss / d picture, [3, height, width] float32; arguments as in ``ssim_forward``."""
    _, height, width = picture.shape
    each = _ONE / np.float32(3 * height * width)
    similar, absolute = dssim_weight * each, (_ONE - dssim_weight) * each
    for thread in prange(threads):
        begin, end = height * thread // threads, height * (thread + 1) // threads
        padded = np.zeros(width + 10, np.float32)
        ring = np.zeros((3, 11, width), np.float32)
        m, s, q = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
        xs, ys = np.empty(width + 10, np.float32), np.empty(width + 10, np.float32)
        for c in range(3):
            for y in range(begin - _REACH, end + _REACH):
                if 0 <= y < height:
                    padded[5 : width + 5] = by_mean[c, y]
                    _blur_row(padded, ring[0, y % 11])
                    padded[5 : width + 5] = by_square[c, y]
                    _blur_row(padded, ring[1, y % 11])
                    padded[5 : width + 5] = by_product[c, y]
                    _blur_row(padded, ring[2, y % 11])
                else:
                    ring[:, y % 11] = _ZERO
                out = y - _REACH
                if out < begin:
                    continue
                _blur_column(ring[0], out, m)
                _blur_column(ring[1], out, s)
                _blur_column(ring[2], out, q)
                _load_row(picture, target, c, out, xs, ys)
                for x in range(width):
                    value, wanted = xs[x + 5], ys[x + 5]
                    off = value - wanted
                    sign = _ONE if off > _ZERO else (-_ONE if off < _ZERO else _ZERO)
                    gradient[c, out, x] = absolute * sign - similar * (
                        m[x] + _TWO * value * s[x] + wanted * q[x]
                    )
                if target.shape[2] == 4:
                    for x in range(width):
                        gradient[c, out, x] *= np.float32(target[out, x, 3]) * _BYTE
