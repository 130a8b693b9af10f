"""DBSCAN (Ester et al. 1996) in memory that grows with the points, not with their neighbours.

scikit-learn's DBSCAN lists all neighbours within eps of every point. A trained scene is so
uneven that eps, three times the mean distance, spans whole objects: 34,000 neighbours a
point were measured in a scene of 200,000, which is 53 GB. This one needs ``min_samples``
neighbours a point, and gives the same labels:

1. A point is *core* when its ``min_samples``-th nearest point, itself included, lies within eps.
2. Core points within eps of each other share a cluster. Edges to the nearest neighbours
   and within the cells of a grid find nearly all of that; what is still apart is joined by
   asking for links between components until there is none.
3. Any other point within eps of a core point belongs to the first such cluster. It has
   fewer than ``min_samples`` neighbours within eps, so step 1 has seen them all.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from services.common.cores import usable_cores
from services.postproc.neighbors import Points, neighbors_of_all

Labels = NDArray[np.intp]

NOISE = -1


def dbscan(points: Points, eps: float, min_samples: int) -> Generator[float, None, Labels]:
    """Clusters points as ``sklearn.cluster.DBSCAN`` does.

    Args:
        points: The points, [N, 3] float64, finite.
        eps: Distance within which points are neighbours.
        min_samples: Neighbours, itself included, that make a point core.

    Yields:
        The fraction done, 0 to 1.

    Returns:
        Cluster of each point, [N], from 0 in the order of their first core points; -1 is noise.
    """
    count = len(points)
    tree = cKDTree(points)
    neighbors = np.empty((count, min_samples), np.intp)  # `count` stands for none
    done = 0
    for rows, _, indices in neighbors_of_all(tree, min_samples, eps):
        neighbors[rows] = indices
        done += len(rows)
        yield 0.7 * done / count
    core = neighbors[:, -1] < count
    if not core.any():
        return np.full(count, NOISE, np.intp)

    core_rows = np.flatnonzero(core)
    core_points = points[core_rows]
    components = _first_components(core_points, _between_core(neighbors, core_rows), eps)
    del tree
    yield 0.8
    components = _join_linked(core_points, components, eps)
    yield 0.95

    labels = np.full(count, NOISE, np.intp)
    labels[core_rows] = _numbered_by_first(components)
    _label_border(labels, neighbors, core)
    return labels


def _between_core(neighbors: NDArray[np.intp], core_rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Edges between core points among the nearest neighbours, [2, E], numbered among the core points."""
    number = np.full(len(neighbors) + 1, -1, np.intp)
    number[core_rows] = np.arange(len(core_rows))
    ends = number[neighbors[core_rows, 1:]]
    starts = np.broadcast_to(np.arange(len(core_rows))[:, None], ends.shape)
    linked = ends >= 0
    return np.stack([starts[linked], ends[linked]])


def _first_components(core_points: Points, edges: NDArray[np.intp], eps: float) -> Labels:
    """Components by nearest neighbours and by cells so small that all points in one are within eps."""
    side = eps / np.sqrt(3.0) * (1 - 1e-9)
    cells = np.floor((core_points - core_points.min(axis=0)) / side)
    order = np.lexsort(cells.T)
    same = (np.diff(cells[order], axis=0) == 0).all(axis=1)
    # Far from the origin of a huge scene cells lose their last digits; the distance decides.
    same &= np.linalg.norm(np.diff(core_points[order], axis=0), axis=1) <= eps
    in_cells = np.stack([order[:-1][same], order[1:][same]])
    return _components(len(core_points), np.concatenate([edges, in_cells], axis=1))


def _join_linked(core_points: Points, components: Labels, eps: float) -> Labels:
    """Joins components until no two of them have core points within eps of each other."""
    while (count := int(components.max()) + 1) > 1:
        edges = np.concatenate(list(_links(core_points, components, eps)), axis=1)
        if edges.shape[1] == 0:
            break
        components = _components(count, components[edges])[components]
    return components


def _links(core_points: Points, components: Labels, eps: float) -> Iterator[NDArray[np.intp]]:
    """Edges between components, [2, E] of indices of points; none only if no two are within eps.

    Every component is compared with the largest one, and the others among themselves by
    each bit of their numbers: any two differ in one, so one of them asks for its nearest
    point among those that the other is part of.
    """
    largest = np.bincount(components).argmax()
    inside, others = np.flatnonzero(components == largest), np.flatnonzero(components != largest)
    yield _nearest_within(core_points, others, inside, eps)
    for bit in range(int(components.max()).bit_length()):
        asks = (components[others] >> bit) & 1 == 1
        yield _nearest_within(core_points, others[asks], others[~asks], eps)


def _nearest_within(
    points: Points, rows: NDArray[np.intp], targets: NDArray[np.intp], eps: float
) -> NDArray[np.intp]:
    """Edges from ``rows`` to the nearest of ``targets``, where that is within eps."""
    if len(rows) == 0 or len(targets) == 0:
        return np.empty((2, 0), np.intp)
    bound = np.nextafter(eps, np.inf)
    tree = cKDTree(points[targets], balanced_tree=False)
    _, nearest = tree.query(points[rows], distance_upper_bound=bound, workers=usable_cores())
    found = nearest < len(targets)
    return np.stack([rows[found], targets[nearest[found]]])


def _components(count: int, edges: NDArray[np.intp]) -> Labels:
    """Connected components of ``count`` nodes, as a number of each node."""
    ones = np.ones(edges.shape[1], np.bool_)
    graph = coo_array((ones, (edges[0], edges[1])), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.intp)


def _numbered_by_first(components: Labels) -> Labels:
    """Renumbers components in the order of their first members."""
    _, first, inverse = np.unique(components, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.intp)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse.reshape(-1)]


def _label_border(labels: Labels, neighbors: NDArray[np.intp], core: NDArray[np.bool_]) -> None:
    """Gives each point that is not core the first cluster it touches, in place."""
    last = np.iinfo(np.intp).max
    by_number = np.append(np.where(core, labels, last), last)  # the last entry is for "none"
    border = np.flatnonzero(~core)
    first = by_number[neighbors[border]].min(axis=1)
    labels[border] = np.where(first == last, NOISE, first)
