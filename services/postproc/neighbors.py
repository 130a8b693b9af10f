"""Nearest neighbours of a million points on all cores, a chunk at a time.

SciPy's k-d tree answers about three times as fast as scikit-learn's here, and asking in the
order of the tree's own leaves nearly three times as fast again as in the order of the file:
consecutive queries then walk through memory that is still in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from services.common.cores import usable_cores

Points = NDArray[np.float64]

_CHUNK = 65_536


def neighbors_of_all(
    tree: cKDTree, k: int, max_distance: float = np.inf
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.intp]]]:
    """The ``k`` nearest points of every point of a tree, itself included.

    Args:
        tree: The points.
        k: How many, at least 1.
        max_distance: Neighbours farther than this are left out.

    Yields:
        A chunk: indices of its points [M], their neighbours' distances [M, k], ascending
        and infinite where there are fewer than k, and their neighbours' indices [M, k].
    """
    bound = np.nextafter(max_distance, np.inf)  # SciPy's own bound is exclusive
    for start in range(0, tree.n, _CHUNK):
        rows = tree.indices[start : start + _CHUNK]
        distances, indices = tree.query(
            tree.data[rows], k=np.arange(1, k + 1), distance_upper_bound=bound, workers=usable_cores()
        )
        yield rows, distances, indices
