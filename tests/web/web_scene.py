"""A small asymmetric scene that shows mirroring and wrong axes, in the formats the viewer reads.

A box in COLMAP's frame (x right, y down, z ahead) whose six faces have six colours; the
face towards the first camera (-z) is white with a red letter F.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SH_C0 = 0.28209479177387814
SIDE = 36
HALF = 1.0
SCALE = 1.1 * HALF / SIDE

RED = (0.85, 0.05, 0.05)
WHITE = (0.92, 0.92, 0.92)
GREEN = (0.05, 0.70, 0.10)
MAGENTA = (0.85, 0.05, 0.80)
BLUE = (0.08, 0.15, 0.90)
ORANGE = (0.95, 0.55, 0.05)
CYAN = (0.05, 0.75, 0.80)

# The letter as someone reads it, top row first.
LETTER = ["######.", "#......", "#......", "####...", "#......", "#......", "#......"]


@dataclass(frozen=True)
class Splats:
    """Round splats without spherical harmonics beyond degree 0."""

    positions: NDArray[np.float32]  # [N, 3], COLMAP's frame
    colours: NDArray[np.float32]  # [N, 3], 0 to 1
    scale: float
    opacity: float

    def __len__(self) -> int:
        return len(self.positions)


def _letter(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether the letter covers a place on the front face; u to the right, v downwards, -1 to 1."""
    grid = np.array([[cell == "#" for cell in row] for row in LETTER])
    rows = np.clip(((v + 0.8) / 1.6 * len(LETTER)).astype(int), -1, len(LETTER))
    columns = np.clip(((u + 0.7) / 1.4 * len(LETTER[0])).astype(int), -1, len(LETTER[0]))
    inside = (np.abs(v) < 0.8) & (np.abs(u) < 0.7)
    return inside & grid[np.clip(rows, 0, len(LETTER) - 1), np.clip(columns, 0, len(LETTER[0]) - 1)]


def box(offset: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Splats:
    """The box, about 7,800 splats."""
    ticks = np.linspace(-HALF, HALF, SIDE)
    u, v = (axis.ravel() for axis in np.meshgrid(ticks, ticks))
    edge = np.full_like(u, HALF)
    front = np.where(_letter(u, v)[:, None], RED, WHITE)
    faces = [
        (np.stack([u, v, -edge], 1), front),
        (np.stack([u, v, edge], 1), np.tile(CYAN, (len(u), 1))),
        (np.stack([edge, u, v], 1), np.tile(GREEN, (len(u), 1))),
        (np.stack([-edge, u, v], 1), np.tile(MAGENTA, (len(u), 1))),
        (np.stack([u, -edge, v], 1), np.tile(BLUE, (len(u), 1))),
        (np.stack([u, edge, v], 1), np.tile(ORANGE, (len(u), 1))),
    ]
    positions = np.concatenate([points for points, _ in faces]) + np.asarray(offset)
    colours = np.concatenate([colour for _, colour in faces])
    return Splats(positions.astype(np.float32), colours.astype(np.float32), SCALE, 0.98)


def splat_bytes(splats: Splats) -> bytes:
    """``.splat``: position 3 f32, linear scale 3 f32, RGBA 4 u8, quaternion wxyz 4 u8."""
    record = np.zeros(
        len(splats),
        dtype=[("position", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quaternion", "u1", 4)],
    )
    record["position"] = splats.positions
    record["scale"] = splats.scale
    record["rgba"][:, :3] = np.round(splats.colours * 255)
    record["rgba"][:, 3] = round(splats.opacity * 255)
    record["quaternion"] = (255, 128, 128, 128)
    return record.tobytes()


def spz_bytes(splats: Splats, antialiased: bool = False) -> bytes:
    """SPZ version 3 without spherical harmonics: 12 fractional bits, identity rotations."""
    total = len(splats)
    header = np.array([0x5053474E, 3, total], "<u4").tobytes() + bytes([0, 12, antialiased, 0])
    fixed = np.round(splats.positions * 4096).astype("<i4")
    positions = fixed.view(np.uint8).reshape(total, 3, 4)[:, :, :3]
    alphas = np.full(total, round(splats.opacity * 255), np.uint8)
    dc = (splats.colours - 0.5) / SH_C0
    colours = np.clip(np.round((dc * 0.15 + 0.5) * 255), 0, 255).astype(np.uint8)
    scales = np.full((total, 3), round((np.log(splats.scale) + 10) * 16), np.uint8)
    # Smallest three: the largest component (w, index 3) in the top two bits, the others are 0.
    rotations = np.full(total, 3 << 30, "<u4")
    parts = [positions, alphas, colours, scales, rotations]
    return gzip.compress(header + b"".join(part.tobytes() for part in parts), 6)


def ply_bytes(splats: Splats, antialiased: bool = False) -> bytes:
    """The standard 3DGS PLY of degree 0."""
    names = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"]
    names += [f"scale_{i}" for i in range(3)] + [f"rot_{i}" for i in range(4)]
    rows = np.zeros((len(splats), len(names)), "<f4")
    rows[:, 0:3] = splats.positions
    rows[:, 3:6] = (splats.colours - 0.5) / SH_C0
    rows[:, 6] = np.log(splats.opacity / (1 - splats.opacity))
    rows[:, 7:10] = np.log(splats.scale)
    rows[:, 10] = 1
    properties = "".join(f"property float {name}\n" for name in names)
    comment = "comment antialiased\n" if antialiased else ""
    header = f"ply\nformat binary_little_endian 1.0\n{comment}element vertex {len(splats)}\n{properties}"
    return header.encode() + b"end_header\n" + rows.tobytes()
