"""Which Gaussians belong to the scene, and which float about.

Two steps: a Gaussian whose mean distance to its K nearest neighbours exceeds the mean of
all by more than ``std_threshold`` standard deviations is an outlier (statistical outlier
removal, Rusu et al. 2008); of the rest, DBSCAN clusters smaller than ``min_cluster_ratio``
are islands. A point that DBSCAN calls noise is in no cluster; it counts as a cluster of one.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from services.postproc.clusters import NOISE, dbscan
from services.postproc.neighbors import Points, neighbors_of_all

EPS_FACTOR = 3.0  # DBSCAN's eps as a multiple of the mean distance
MIN_SAMPLES = 10

Mask = NDArray[np.bool_]
_T = TypeVar("_T")


@dataclass(frozen=True)
class OutlierParameters:
    """What counts as an outlier."""

    k_neighbors: int
    """Neighbours whose mean distance judges a Gaussian."""
    std_threshold: float
    """Remove beyond mean + this many standard deviations."""
    remove_small_clusters: bool
    """Whether to remove small clusters too."""
    min_cluster_ratio: float
    """Smallest cluster kept, as a fraction of the Gaussians that were clustered."""


@dataclass(frozen=True)
class OutlierResult:
    """What the filter found."""

    keep: Mask  # [N]
    removed_by_distance: int
    """Removed for the distance of their neighbours."""
    removed_by_clusters: int
    """Removed with small clusters, noise included."""
    mean_distance: float
    """Mean over all Gaussians of the mean distance to the K nearest neighbours, world units."""
    distance_limit: float
    """Largest mean distance kept, world units."""
    eps: float
    """DBSCAN's eps in world units; 0 when clusters were not looked for."""
    clusters: int
    """Clusters found; 0 when not looked for."""
    largest_kept_alone: bool
    """All clusters were small, so the largest was kept."""


def find_outliers(
    positions: NDArray[np.float32], parameters: OutlierParameters
) -> Generator[float, None, OutlierResult]:
    """Decides which Gaussians to keep; never removes all of them.

    Args:
        positions: Centres of the Gaussians, [N, 3], finite, N at least 1.
        parameters: What counts as an outlier.

    Yields:
        The fraction done, 0 to 1.

    Returns:
        Which to keep, and why the others go.
    """
    points = positions.astype(np.float64)
    distances = yield from _scaled(_mean_neighbor_distances(points, parameters.k_neighbors), 0.0, 0.5)
    mean = float(distances.mean())
    limit = mean + parameters.std_threshold * float(distances.std())
    # Where all distances are equal their mean may be rounded to just below them.
    near = distances <= limit * (1 + 1e-12)
    result = OutlierResult(near, int(len(near) - near.sum()), 0, mean, limit, 0.0, 0, False)
    # From those that stay: a single floater a million units away would move the mean of all.
    eps = EPS_FACTOR * float(distances[near].mean())
    if not parameters.remove_small_clusters or eps <= 0:
        return result

    labels = yield from _scaled(dbscan(points[near], eps, MIN_SAMPLES), 0.5, 0.5)
    large, alone = _in_large_clusters(labels, parameters.min_cluster_ratio)
    keep = near.copy()
    keep[near] = large
    return OutlierResult(
        keep,
        result.removed_by_distance,
        int(len(large) - large.sum()),
        mean,
        limit,
        eps,
        int(labels.max()) + 1,
        alone,
    )


def _mean_neighbor_distances(points: Points, k: int) -> Generator[float, None, NDArray[np.float64]]:
    """Mean distance of each point to its k nearest neighbours (to all others where there are fewer)."""
    count = len(points)
    k = min(k, count - 1)
    means = np.zeros(count)
    if k == 0:
        return means
    done = 0
    for rows, distances, _ in neighbors_of_all(cKDTree(points), k + 1):
        means[rows] = distances[:, 1:].mean(axis=1)  # the first is the point itself
        done += len(rows)
        yield done / count
    return means


def _in_large_clusters(labels: NDArray[np.intp], min_ratio: float) -> tuple[Mask, bool]:
    """Which points are in clusters that are large enough, and whether none was, so that the largest stays."""
    needed = min_ratio * len(labels)
    sizes = np.bincount(labels[labels != NOISE])
    if len(sizes) == 0:
        return np.ones(len(labels), np.bool_), False  # no cluster at all: nothing to tell islands from
    size_of_point = np.where(labels == NOISE, 1, sizes[labels])
    large = size_of_point >= needed
    if large.any():
        return large, False
    return labels == sizes.argmax(), True


def _scaled(work: Generator[float, None, _T], start: float, share: float) -> Generator[float, None, _T]:
    """Passes on a part's fractions as fractions of the whole."""
    while True:
        try:
            fraction = next(work)
        except StopIteration as stop:
            result: _T = stop.value
            return result
        yield start + share * fraction
