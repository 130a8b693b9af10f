"""SPZ version 3: the whole scene with spherical harmonics in a tenth of the PLY's size.

Written from the format's public description (Niantic, github.com/nianticlabs/spz). One
gzip stream holds a header of 16 bytes and then, attribute by attribute for all N
Gaussians: positions 3 x 24-bit fixed point; opacities uint8; colours 3 x uint8; log
scales 3 x uint8; quaternions 32 bits; higher SH coefficients uint8, colour channel
fastest. Integers are little endian.

Positions, quaternions and coefficients are in the frame of COLMAP, as in the PLY: no axis
is turned, so every file of a scene shows the same in one viewer. The description asks for
right-up-back; an application that insists on it must turn the scene by 180 degrees about x.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.common.formats.values import opacities, to_bytes, unit_quats
from services.common.splat_cloud import Array, SplatCloud

MAGIC = 0x5053474E  # "NGSP" as its four bytes
VERSION = 3
SH1_BITS = 5
"""Bits kept of coefficients of degree 1; the bytes' other bits are zero and compress away."""
SH_REST_BITS = 4
"""Bits kept of coefficients of degrees 2 and 3."""

_ANTIALIASED = 1  # flag
_COLOR_SCALE = 0.15
_LARGEST_FIXED = (1 << 23) - 1
_MAX_FRACTIONAL_BITS = 20
_GZIP_LEVEL = 6
_SQRT_HALF = np.float32(np.sqrt(0.5))


def write_spz(path: Path, cloud: SplatCloud, order: NDArray[np.intp], gzip_level: int = _GZIP_LEVEL) -> None:
    """Writes a scene as SPZ version 3.

    Args:
        path: The file; replaced if it is there.
        cloud: The scene.
        order: Order of the Gaussians in the file.
        gzip_level: 1 is fastest, 9 smallest.
    """
    fractional_bits = _fractional_bits(cloud.positions)
    flags = _ANTIALIASED if cloud.antialiased else 0
    header = struct.pack("<IIIBBBB", MAGIC, VERSION, len(cloud), cloud.sh_degree, fractional_bits, flags, 0)
    # No name and no time in the gzip header: the same scene gives the same bytes.
    with path.open("wb") as raw, gzip.GzipFile("", "wb", gzip_level, raw, mtime=0) as file:
        file.write(header)
        file.write(_fixed_point(cloud.positions[order], fractional_bits).data)
        file.write(to_bytes(opacities(cloud.opacity_logits[order]) * np.float32(255)).data)
        file.write(
            to_bytes((cloud.sh0[order] * np.float32(_COLOR_SCALE) + np.float32(0.5)) * np.float32(255)).data
        )
        file.write(to_bytes((cloud.log_scales[order] + np.float32(10)) * np.float32(16)).data)
        file.write(_smallest_three(cloud.quats[order]).data)
        file.write(_quantized_sh(cloud.sh_rest[order]).data)


def _fractional_bits(positions: Array) -> int:
    """As many bits behind the point as leave room for the farthest Gaussian."""
    farthest = float(np.abs(positions).max(initial=0))
    bits = _MAX_FRACTIONAL_BITS
    while bits > 0 and farthest * (1 << bits) > _LARGEST_FIXED:
        bits -= 1
    return bits


def _fixed_point(positions: Array, fractional_bits: int) -> NDArray[np.uint8]:
    """Positions as signed 24-bit integers, [N, 3, 3] bytes, the lowest first."""
    scaled = np.rint(positions.astype(np.float64) * (1 << fractional_bits))
    fixed = np.clip(scaled, -_LARGEST_FIXED, _LARGEST_FIXED).astype("<i4")
    return np.ascontiguousarray(fixed.view(np.uint8).reshape(-1, 3, 4)[:, :, :3])


def _smallest_three(quats: Array) -> NDArray[np.uint32]:
    """Quaternions in 32 bits, [N].

    In the order x, y, z, w: two bits name the component of the largest magnitude, made
    positive and left out; each of the others has a sign and nine bits of magnitude in
    units of sqrt(1/2) / 511, the first of them highest.
    """
    xyzw = unit_quats(quats)[:, [1, 2, 3, 0]]
    rows = np.arange(len(xyzw))
    largest = np.abs(xyzw).argmax(axis=1)
    xyzw = np.where(xyzw[rows, largest][:, None] < 0, -xyzw, xyzw)
    magnitudes = np.minimum(np.rint(np.abs(xyzw) * (np.float32(511) / _SQRT_HALF)), 511).astype(np.uint32)
    codes = magnitudes | ((xyzw < 0).astype(np.uint32) << 9)
    packed: NDArray[np.uint32] = largest.astype(np.uint32)
    for component in range(4):
        packed = np.where(component == largest, packed, (packed << 10) | codes[:, component])
    return packed.astype("<u4")


def _quantized_sh(sh_rest: Array) -> NDArray[np.uint8]:
    """Higher coefficients as ``c * 128 + 128`` in steps of 2^(8 - bits), [N, K - 1, 3]."""
    bits = np.array([SH1_BITS] * 3 + [SH_REST_BITS] * 12, np.int32)[: sh_rest.shape[1]]
    step = (1 << (8 - bits))[:, None].astype(np.float32)
    return np.minimum(to_bytes(np.rint((sh_rest * np.float32(128) + np.float32(128)) / step) * step), 255)
