"""A scene of 3D Gaussians in numpy, and the PLY layout that every 3DGS tool reads.

The layout is that of the reference implementation of 3D Gaussian Splatting (Kerbl et al.
2023): one ``vertex`` element of float32 properties ``x y z nx ny nz f_dc_0..2 f_rest_*
opacity scale_0..2 rot_0..3``. ``f_rest`` is channel-major: first all higher coefficients
of red, then of green, then of blue. Scales are natural logarithms, opacities are logits,
quaternions are wxyz.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from plyfile import PlyData, PlyElement, PlyParseError

from splatmill.errors import Reason, SplatmillError

Array = NDArray[np.float32]

_ROWS_AT_ONCE = 16_384  # 4 MB of rows of degree 3: reads and writes of one block stay in the cache
_REST_COUNTS = (0, 3, 8, 15)  # higher coefficients a channel of degrees 0 to 3
_ANTIALIASED = "antialiased"  # the comment in the header of such a scene


@dataclass(frozen=True, eq=False)
class SplatCloud:
    """N Gaussians. The arrays are float32 and are not written to after they are given."""

    positions: Array  # [N, 3], world units
    log_scales: Array  # [N, 3], natural log of the standard deviations
    quats: Array  # [N, 4], wxyz, need not be normalised
    opacity_logits: Array  # [N]
    sh0: Array  # [N, 3], degree-0 coefficients of the colour
    sh_rest: Array  # [N, K - 1, 3], the higher ones, K = (degree + 1)^2
    antialiased: bool = False
    """Whether it was trained with opacities that make up for the low-pass filter, and is to be shown so."""

    def __post_init__(self) -> None:
        """Checks shapes and types."""
        count = len(self.positions)
        if self.sh_rest.ndim != 3 or self.sh_rest.shape[1] not in _REST_COUNTS:
            raise ValueError(f"sh_rest has shape {self.sh_rest.shape}, expected [N, 0, 3, 8 or 15, 3]")
        shapes = {
            "positions": (count, 3),
            "log_scales": (count, 3),
            "quats": (count, 4),
            "opacity_logits": (count,),
            "sh0": (count, 3),
            "sh_rest": (count, self.sh_rest.shape[1], 3),
        }
        for name, array in self.items():
            if array.shape != shapes[name]:
                raise ValueError(f"{name} has shape {array.shape}, expected {shapes[name]}")
            if array.dtype != np.float32:
                raise ValueError(f"{name} is {array.dtype}, expected float32")

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 3."""
        return _REST_COUNTS.index(self.sh_rest.shape[1])

    def items(self) -> Iterator[tuple[str, Array]]:
        """The arrays by name, in the order of the fields."""
        for name in ("positions", "log_scales", "quats", "opacity_logits", "sh0", "sh_rest"):
            yield name, getattr(self, name)

    def select(self, index: NDArray[np.bool_] | NDArray[np.intp]) -> SplatCloud:
        """Those named by ``index`` ([N] bool mask, or [M] indices), as copies."""
        chosen = {name: array[index] for name, array in self.items()}
        return SplatCloud(**chosen, antialiased=self.antialiased)

    def finite(self) -> NDArray[np.bool_]:
        """Which Gaussians hold neither NaN nor infinity, [N]."""
        keep = np.ones(len(self), np.bool_)
        for _, array in self.items():
            for start in range(0, len(self), _ROWS_AT_ONCE):
                rows = slice(start, start + _ROWS_AT_ONCE)
                keep[rows] &= np.isfinite(array[rows]).reshape(len(keep[rows]), -1).all(axis=1)
        return keep


def ply_properties(sh_degree: int) -> list[str]:
    """Names of the properties of a 3DGS PLY in their order."""
    return [
        *("x", "y", "z", "nx", "ny", "nz"),
        *(f"f_dc_{i}" for i in range(3)),
        *(f"f_rest_{i}" for i in range(3 * _REST_COUNTS[sh_degree])),
        "opacity",
        *(f"scale_{i}" for i in range(3)),
        *(f"rot_{i}" for i in range(4)),
    ]


def write_ply(path: Path, cloud: SplatCloud) -> None:
    """Writes a scene as a binary little-endian 3DGS PLY.

    Args:
        path: The file; replaced if it is there.
        cloud: The scene.
    """
    names = ply_properties(cloud.sh_degree)
    rows = np.zeros((len(cloud), len(names)), "<f4")
    rest = 3 * cloud.sh_rest.shape[1]
    for start in range(0, len(cloud), _ROWS_AT_ONCE):
        block = slice(start, start + _ROWS_AT_ONCE)
        rows[block, 0:3] = cloud.positions[block]
        rows[block, 6:9] = cloud.sh0[block]
        rows[block, 9 : 9 + rest] = cloud.sh_rest[block].transpose(0, 2, 1).reshape(len(rows[block]), rest)
        rows[block, 9 + rest] = cloud.opacity_logits[block]
        rows[block, 10 + rest : 13 + rest] = cloud.log_scales[block]
        rows[block, 13 + rest : 17 + rest] = cloud.quats[block]
    vertices = rows.view([(name, "<f4") for name in names]).reshape(len(cloud))
    comments = [_ANTIALIASED] if cloud.antialiased else []
    PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<", comments=comments).write(str(path))


def read_ply(path: Path) -> SplatCloud:
    """Reads a 3DGS PLY of any byte order, binary or text, with SH of degree 0 to 3.

    Args:
        path: The file.

    Returns:
        The scene; values are as stored, NaN included.

    Raises:
        SplatmillError: INPUT_NOT_FOUND without a file, INVALID_REQUEST for a file that is
            no PLY, is cut off, or holds no Gaussians.
    """
    try:
        content = PlyData.read(str(path), mmap="r")
        vertices = content["vertex"].data
    except FileNotFoundError:
        raise SplatmillError(
            Reason.INPUT_NOT_FOUND,
            f"There is no file {path.name}.",
            "Train the scene first.",
            field=path.name,
        ) from None
    # plyfile tells a broken header by any of these, and a missing element by KeyError.
    except (PlyParseError, ValueError, KeyError, TypeError, IndexError, OSError) as error:
        raise _not_3dgs(path, f"it cannot be read as PLY ({_first_line(error)})") from error
    return _cloud_from_vertices(path, vertices, _ANTIALIASED in content.comments)


def _cloud_from_vertices(path: Path, vertices: NDArray[Any], antialiased: bool) -> SplatCloud:
    """Copies the named properties into the cloud's arrays, block by block."""
    names = set(vertices.dtype.names or ())
    rest = sum(name.startswith("f_rest_") for name in names)
    if rest % 3 or rest // 3 not in _REST_COUNTS:
        raise _not_3dgs(path, f"it has {rest} f_rest properties, expected 0, 9, 24 or 45")
    degree = _REST_COUNTS.index(rest // 3)
    wanted = [name for name in ply_properties(degree) if name not in {"nx", "ny", "nz"}]
    if missing := [name for name in wanted if name not in names]:
        raise _not_3dgs(path, f"it lacks the properties {', '.join(missing[:8])}")
    if scalars := [name for name in wanted if vertices.dtype[name].kind not in "fiu"]:
        raise _not_3dgs(path, f"its properties {', '.join(scalars[:8])} are no numbers")

    count = len(vertices)
    positions, log_scales, sh0 = (np.empty((count, 3), np.float32) for _ in range(3))
    quats, opacity_logits = np.empty((count, 4), np.float32), np.empty((count, 1), np.float32)
    sh_rest = np.empty((count, rest // 3, 3), np.float32)
    channel_major = sh_rest.transpose(0, 2, 1)  # a view: f_rest_i lies at [i // (K - 1), i % (K - 1)]
    targets = [
        *((name, positions[:, i]) for i, name in enumerate("xyz")),
        *((f"f_dc_{i}", sh0[:, i]) for i in range(3)),
        *((f"f_rest_{i}", channel_major[:, i // (rest // 3), i % (rest // 3)]) for i in range(rest)),
        ("opacity", opacity_logits[:, 0]),
        *((f"scale_{i}", log_scales[:, i]) for i in range(3)),
        *((f"rot_{i}", quats[:, i]) for i in range(4)),
    ]
    for start in range(0, count, _ROWS_AT_ONCE):
        block = slice(start, start + _ROWS_AT_ONCE)
        for name, target in targets:
            target[block] = vertices[name][block]
    return SplatCloud(positions, log_scales, quats, opacity_logits[:, 0], sh0, sh_rest, antialiased)


def _not_3dgs(path: Path, why: str) -> SplatmillError:
    return SplatmillError(
        Reason.INVALID_REQUEST,
        f"{path.name} is no 3D Gaussian splatting PLY: {why}.",
        "Give the point_cloud.ply of a 3DGS training.",
        field=path.name,
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
