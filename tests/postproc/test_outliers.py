"""The outlier filter against scikit-learn, and where it must not remove everything."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import DBSCAN
from sklearn.neighbors import NearestNeighbors

from services.postproc import neighbors
from services.postproc.clusters import dbscan
from services.postproc.outliers import OutlierParameters, find_outliers

DEFAULTS = OutlierParameters(20, 2.0, True, 0.01)


def uneven_scene(count: int, seed: int) -> np.ndarray:
    """A dense object, a sparse ground, an island and floaters, shuffled."""
    random = np.random.default_rng(seed)
    parts = [
        random.normal(0, 0.3, (count // 2, 3)),
        np.c_[random.uniform(-4, 4, (count // 3, 2)), random.normal(0, 0.02, count // 3)],
        random.normal(0, 0.05, (count // 50, 3)) + [9, 0, 0],
        random.normal(0, 12, (count // 40, 3)),
    ]
    return random.permutation(np.concatenate(parts)).astype(np.float32)


def plain_filter(positions: np.ndarray, parameters: OutlierParameters) -> np.ndarray:
    """The design's sentence, written down with scikit-learn."""
    points = positions.astype(np.float64)
    distances, _ = NearestNeighbors(n_neighbors=parameters.k_neighbors).fit(points).kneighbors()
    distances = distances.mean(axis=1)
    keep = distances <= distances.mean() + parameters.std_threshold * distances.std()
    if parameters.remove_small_clusters:
        labels = DBSCAN(eps=3 * distances[keep].mean(), min_samples=10).fit_predict(points[keep])
        sizes = {label: (labels == label).sum() if label >= 0 else 1 for label in set(labels)}
        large = [sizes[label] >= parameters.min_cluster_ratio * len(labels) for label in labels]
        keep[keep] = large
    return keep


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "parameters",
    [
        DEFAULTS,
        OutlierParameters(5, 0.5, True, 0.05),
        OutlierParameters(20, 1.0, False, 0.01),
        OutlierParameters(3, 3.0, True, 0.0),
    ],
)
def test_equals_the_plain_filter(exhaust, seed, parameters):
    positions = uneven_scene(1500, seed)
    fractions, result = exhaust(find_outliers(positions, parameters))
    expected = plain_filter(positions, parameters)
    np.testing.assert_array_equal(result.keep, expected)
    assert result.removed_by_distance + result.removed_by_clusters == (~expected).sum()
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] <= fractions[-1] <= 1


def test_island_and_floaters_go_and_the_object_stays(exhaust):
    random = np.random.default_rng(0)
    positions = np.concatenate(
        [
            random.normal(0, 1, (5000, 3)),
            random.normal(0, 0.1, (40, 3)) + 20,
            np.array([[200, 0, 0], [0, 300, 0]]),
        ]
    ).astype(np.float32)
    _, result = exhaust(find_outliers(positions, DEFAULTS))
    assert not result.keep[5000:].any()
    assert result.keep[:5000].mean() > 0.95
    assert result.clusters == 2
    _, without = exhaust(find_outliers(positions, OutlierParameters(20, 2.0, False, 0.01)))
    assert without.keep[5000:5040].all()
    assert without.removed_by_clusters == 0


@pytest.mark.parametrize("seed", range(30))
def test_dbscan_equals_sklearn(exhaust, seed):
    random = np.random.default_rng(seed)
    points = random.standard_normal((random.integers(1, 600), 3)) * random.uniform(0.1, 3, 3)
    if seed % 3 == 0:
        points = np.round(points * 3) / 3  # many equal points and equal distances
    for eps in (0.05, 0.2, 0.5, 1.1):
        for min_samples in (1, 4, 10):
            _, labels = exhaust(dbscan(points, eps, min_samples))
            expected = DBSCAN(eps=eps, min_samples=min_samples).fit_predict(points)
            np.testing.assert_array_equal(labels, expected, err_msg=f"{eps} {min_samples}")


def test_dbscan_joins_what_nearest_neighbours_leave_apart(exhaust):
    """Tight clumps in a chain: each point's 10 nearest are in its own clump, the clumps within eps."""
    random = np.random.default_rng(1)
    clumps = [random.normal(0, 1e-3, (30, 3)) + [0.9 * number, 0, 0] for number in range(64)]
    clumps += [random.normal(0, 1e-3, (30, 3)) + [0, 5 + 1.1 * number, 0] for number in range(5)]
    points = random.permutation(np.concatenate(clumps))
    _, labels = exhaust(dbscan(points, 1.0, 10))
    np.testing.assert_array_equal(labels, DBSCAN(eps=1.0, min_samples=10).fit_predict(points))
    assert labels.max() + 1 == 6


def test_chunks_do_not_change_the_result(exhaust, monkeypatch):
    positions = uneven_scene(1000, 7)
    _, whole = exhaust(find_outliers(positions, DEFAULTS))
    monkeypatch.setattr(neighbors, "_CHUNK", 37)
    fractions, chunked = exhaust(find_outliers(positions, DEFAULTS))
    np.testing.assert_array_equal(whole.keep, chunked.keep)
    assert len(fractions) > 40


@pytest.mark.parametrize("count", [1, 2, 9, 15])
def test_few_gaussians_stay(exhaust, count):
    positions = np.random.default_rng(0).standard_normal((count, 3)).astype(np.float32)
    _, result = exhaust(find_outliers(positions, DEFAULTS))
    assert result.keep.any()


def test_all_in_one_place(exhaust):
    _, result = exhaust(find_outliers(np.ones((500, 3), np.float32), DEFAULTS))
    assert result.keep.all()


def test_equal_distances_are_not_beyond_their_mean(exhaust):
    pairs = np.repeat(4.0 * np.arange(1000), 2)
    positions = np.stack([pairs, np.tile([0, 0.1], 1000), 0 * pairs], -1).astype(np.float32)
    for threshold in (1e-9, 2.0):
        _, result = exhaust(find_outliers(positions, OutlierParameters(1, threshold, True, 0.01)))
        assert result.keep.all()
        assert result.clusters == 0  # pairs are noise to DBSCAN, and nothing else is there


def test_the_largest_cluster_stays_when_all_are_small(exhaust):
    random = np.random.default_rng(0)
    positions = np.concatenate([random.normal(10 * n, 0.1, (60 + 10 * n, 3)) for n in range(4)]).astype(
        np.float32
    )
    _, result = exhaust(find_outliers(positions, OutlierParameters(5, 10.0, True, 0.9)))
    assert result.largest_kept_alone
    assert result.keep.sum() >= 85
    assert not result.keep[:210].any()


def test_one_floater_astronomically_far(exhaust):
    positions = np.random.default_rng(0).standard_normal((2000, 3)).astype(np.float32)
    positions[7] = 1e30
    _, result = exhaust(find_outliers(positions, DEFAULTS))
    assert not result.keep[7]
    assert result.keep.sum() > 1800
    assert result.eps < 10
