"""The first Gaussians, one for each point of structure from motion."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from services.trainer.dataset import Dataset
from services.trainer.scene_types import Camera, Gaussians
from splatmill.errors import Reason, SplatmillError

INITIAL_OPACITY = 0.1
SH_C0 = 0.28209479177387814  # the constant harmonic, 1 / (2 sqrt(pi))
_NEIGHBOURS = 3
_VIEW_MARGIN = 0.3  # share of the picture's size by which a point may lie beside it
_LARGEST_SHARE = 0.1  # of the distance to the nearest camera
_SMALLEST_SHARE = 1e-5  # of the extent


def initial_gaussians(dataset: Dataset, sh_degree: int, max_gaussians: int, seed: int) -> Gaussians:
    """Turns SfM points into Gaussians as the 3DGS reference does.

    Round ones of opacity 0.1, each with the root mean square distance of its three nearest
    neighbours as its standard deviation. Points that no training photo has in view are left
    out; so are random ones when there are more than ``max_gaussians``.

    Args:
        dataset: Points and cameras.
        sh_degree: Degree of the spherical harmonics to store.
        max_gaussians: Most Gaussians.
        seed: Of the random choice.

    Returns:
        The Gaussians, on the CPU.

    Raises:
        SplatmillError: NO_POINTS when no point is in view.
    """
    keep = in_view(dataset.positions, (view.cameras[0] for view in dataset.train)).nonzero()[:, 0]
    if len(keep) == 0:
        raise SplatmillError(
            Reason.NO_POINTS,
            "Structure from motion left no points in view of the photos, so there is nothing to start from.",
            "Take photos with more overlap and more texture, and try again.",
        )
    if len(keep) > max_gaussians:
        chosen = torch.randperm(len(keep), generator=torch.Generator().manual_seed(seed))[:max_gaussians]
        keep = keep[chosen.sort().values]
    positions = dataset.positions[keep].contiguous()
    count = len(positions)
    spacing = neighbour_distances(positions)
    reach = _LARGEST_SHARE * _distance_to_nearest(positions, dataset)
    spacing = torch.minimum(torch.where(spacing > 0, spacing, reach), reach)
    spacing = spacing.clamp_min(_SMALLEST_SHARE * dataset.extent)
    quats = torch.zeros(count, 4)
    quats[:, 0] = 1.0
    return Gaussians(
        means=positions,
        log_scales=spacing.log()[:, None].repeat(1, 3),
        quats=quats,
        opacity_logits=torch.full((count,), math.log(INITIAL_OPACITY / (1 - INITIAL_OPACITY))),
        sh0=(dataset.colors[keep].float() / 255 - 0.5) / SH_C0,
        sh_rest=torch.zeros(count, (sh_degree + 1) ** 2 - 1, 3),
    )


def neighbour_distances(positions: Tensor) -> Tensor:
    """Root mean square distance of each point to its three nearest neighbours.

    Args:
        positions: [N, 3].

    Returns:
        [N] float32; 0 where a point has no neighbours, or only such as lie on it.
    """
    count = len(positions)
    if count < 2:
        return torch.zeros(count)
    points = positions.double().numpy()
    distances, _ = cKDTree(points).query(points, k=min(_NEIGHBOURS, count - 1) + 1, workers=-1)
    return torch.from_numpy(np.sqrt((distances[:, 1:] ** 2).mean(axis=1)).astype(np.float32))


def in_view(positions: Tensor, cameras: Iterable[Camera]) -> Tensor:
    """Which points lie before at least one camera and in its picture or little beside it, [N] bool."""
    seen = torch.zeros(len(positions), dtype=torch.bool)
    for camera in cameras:
        pose = camera.cam_from_world
        x, y, z = (positions @ pose[:3, :3].T + pose[:3, 3]).unbind(-1)
        u, v = camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy
        mx, my = _VIEW_MARGIN * camera.width, _VIEW_MARGIN * camera.height
        inside = (u > -mx) & (u < camera.width + mx) & (v > -my) & (v < camera.height + my)
        seen |= inside & (z > 0)
    return seen


def _distance_to_nearest(positions: Tensor, dataset: Dataset) -> Tensor:
    """Distance of each point to the nearest training camera, [N]."""
    poses = torch.stack([view.cameras[0].cam_from_world for view in dataset.train])
    centers = -torch.einsum("nij,ni->nj", poses[:, :3, :3], poses[:, :3, 3])
    distances, _ = cKDTree(centers.numpy()).query(positions.numpy())
    return torch.from_numpy(distances.astype(np.float32))
