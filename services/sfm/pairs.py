"""Which photos are matched with which, when there are too many to try every pair."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pycolmap
from numpy.typing import NDArray

_WORDS = 48
_SAMPLED_PER_PHOTO = 600
_ROUNDS = 12

Pair = tuple[str, str]


def every_pair(names: Sequence[str]) -> int:
    """Number of pairs of an exhaustive match."""
    return len(names) * (len(names) - 1) // 2


def neighbours(names: Sequence[str], overlap: int) -> set[Pair]:
    """Each photo with those after it: all of the next few, then at doubling distances.

    The doubling distances tie a walk together that comes back near its own path.

    Args:
        names: Photos in the order they were taken.
        overlap: How many of the next ones, and how many doublings.

    Returns:
        Pairs, the earlier photo first.
    """
    steps = {*range(1, overlap + 1), *(2**power for power in range(overlap))}
    return {
        (names[first], names[first + step])
        for first in range(len(names))
        for step in steps
        if first + step < len(names)
    }


def alike(database: pycolmap.Database, partners: int) -> set[Pair]:
    """Each photo with those that look most like it, by its SIFT features.

    Photos are described by VLAD (Jegou et al. 2010: sums of differences between features
    and their nearest visual word) with words learnt from the photos at hand, so nothing
    needs to be downloaded.

    Args:
        database: With features of all photos.
        partners: Partners per photo.

    Returns:
        Pairs, names within a pair sorted.
    """
    images = sorted(database.read_all_images(), key=lambda image: image.name)
    rng = np.random.default_rng(0)
    features = [_root_sift(database, image.image_id, rng) for image in images]
    filled = [block for block in features if len(block)]
    if not filled:
        return set()
    words = _visual_words(np.concatenate(filled), rng)
    described = np.stack([_vlad(block, words) for block in features])
    likeness = described @ described.T
    np.fill_diagonal(likeness, -np.inf)
    count = min(partners, len(images) - 1)
    best = np.argpartition(-likeness, count - 1, axis=1)[:, :count]
    return {
        (images[min(row, column)].name, images[max(row, column)].name)
        for row, columns in enumerate(best.tolist())
        for column in columns
    }


def _root_sift(database: pycolmap.Database, image: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """A sample of a photo's features, unit length, [N, 128]."""
    data = np.asarray(database.read_descriptors(image).data)
    chosen = rng.permutation(len(data))[:_SAMPLED_PER_PHOTO]
    block = data[chosen].astype(np.float32)
    return np.asarray(block / np.maximum(np.linalg.norm(block, axis=1, keepdims=True), 1e-6))


def _nearest(block: NDArray[np.float32], words: NDArray[np.float32]) -> NDArray[np.intp]:
    """Number of the nearest word of each feature; features have unit length, words need not."""
    return np.asarray((block @ words.T - 0.5 * (words * words).sum(axis=1)).argmax(axis=1))


def _visual_words(features: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Centres of k-means (Lloyd), [words, 128]."""
    words = features[rng.permutation(len(features))[: min(_WORDS, len(features))]].copy()
    sample = features[rng.permutation(len(features))[:40_000]]
    for _ in range(_ROUNDS):
        owner = _nearest(sample, words)
        sums = np.zeros_like(words)
        np.add.at(sums, owner, sample)
        counts = np.bincount(owner, minlength=len(words))
        words = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], words)
    return words


def _vlad(block: NDArray[np.float32], words: NDArray[np.float32]) -> NDArray[np.float32]:
    """One unit vector for a photo, [words * 128]; zeros for a photo without features."""
    sums = np.zeros_like(words)
    owner = _nearest(block, words) if len(block) else np.zeros(0, dtype=np.intp)
    np.add.at(sums, owner, block - words[owner])
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    flat = (sums / np.maximum(lengths, 1e-6)).ravel()
    return np.asarray(flat / max(float(np.linalg.norm(flat)), 1e-6), dtype=np.float32)
