"""``.splat``: 32 bytes a Gaussian, without a header, the most visible ones first.

Each record is position 3 x float32, standard deviations 3 x float32, RGBA 4 x uint8 and the
quaternion wxyz 4 x uint8 as ``q * 128 + 128``; little endian. A loader that stops early
has the Gaussians that matter. ``.splat44`` is the same with the quaternion as 4 x float32,
which makes 44 bytes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.common.formats.values import base_colors, linear_scales, opacities, to_bytes, unit_quats
from services.common.splat_cloud import SplatCloud

_HEAD = [("position", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4)]
SPLAT = np.dtype([*_HEAD, ("quat", "u1", 4)])
SPLAT44 = np.dtype([*_HEAD, ("quat", "<f4", 4)])


def draw_order(cloud: SplatCloud) -> NDArray[np.intp]:
    """Indices by descending volume times opacity, [N]; equal ones stay in their order."""
    # In logarithms, in float64: the product of three small scales underflows in float32.
    log_opacities = -np.logaddexp(0.0, -cloud.opacity_logits.astype(np.float64))
    return np.argsort(-(cloud.log_scales.sum(axis=1, dtype=np.float64) + log_opacities), kind="stable")


def write_splat(path: Path, cloud: SplatCloud, order: NDArray[np.intp]) -> None:
    """Writes the 32-byte format.

    Args:
        path: The file; replaced if it is there.
        cloud: The scene.
        order: Order of the records, from ``draw_order``.
    """
    rows = _head(cloud, order, SPLAT)
    rows["quat"] = to_bytes(unit_quats(cloud.quats[order]) * np.float32(128) + np.float32(128))
    rows.tofile(path)


def write_splat44(path: Path, cloud: SplatCloud, order: NDArray[np.intp]) -> None:
    """Writes the 44-byte format.

    Args:
        path: The file; replaced if it is there.
        cloud: The scene.
        order: Order of the records, from ``draw_order``.
    """
    rows = _head(cloud, order, SPLAT44)
    rows["quat"] = unit_quats(cloud.quats[order])
    rows.tofile(path)


def _head(cloud: SplatCloud, order: NDArray[np.intp], dtype: np.dtype[np.void]) -> NDArray[np.void]:
    rows = np.empty(len(cloud), dtype)
    rows["position"] = cloud.positions[order]
    rows["scale"] = linear_scales(cloud.log_scales[order])
    rows["rgba"][:, :3] = to_bytes(base_colors(cloud.sh0[order]) * np.float32(255))
    rows["rgba"][:, 3] = to_bytes(opacities(cloud.opacity_logits[order]) * np.float32(255))
    return rows
