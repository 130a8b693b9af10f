"""Which Gaussians reach which tile, nearest first: one sort by depth, then counting."""

# ruff: noqa: E402, I001
from __future__ import annotations

from services.trainer.cpu import environment  # noqa: F401  (before numba)

import numpy as np
from numba import njit

_BITS = 11
_BUCKETS = 1 << _BITS


@njit(cache=True)
def sort_by_depth(depths, counts, keys, order, spare_keys, spare_order):
    """Radix sort of the Gaussians with tiles; answers how many there are, sorted in ``order``.

    Positive floats sort like their bit patterns, so three passes of 11 bits do.
    """
    bits = depths.view(np.uint32)
    total = 0
    for i in range(counts.shape[0]):
        if counts[i] > 0:
            keys[total], order[total] = bits[i], i
            total += 1
    starts = np.empty(_BUCKETS, np.int64)
    for shift in (0, _BITS, 2 * _BITS):
        starts[:] = 0
        for k in range(total):
            starts[(keys[k] >> shift) & (_BUCKETS - 1)] += 1
        running = 0
        for bucket in range(_BUCKETS):
            size = starts[bucket]
            starts[bucket] = running
            running += size
        for k in range(total):
            bucket = (keys[k] >> shift) & (_BUCKETS - 1)
            spare_keys[starts[bucket]], spare_order[starts[bucket]] = keys[k], order[k]
            starts[bucket] += 1
        keys, spare_keys = spare_keys, keys
        order, spare_order = spare_order, order
    # After three passes the result lies in what was handed in as spare.
    return total


@njit(cache=True)
def fill_lists(order, total, counts, offsets, tile_ids, needed, ranges, lists, slots):
    """Writes each tile's list by walking the Gaussians from near to far.

    Args:
        order: [N] Gaussians by depth, the first ``total`` of them valid.
        total: How many.
        counts: [N] tiles of each Gaussian.
        offsets: [N] where its tiles stand in the flat ``tile_ids``.
        tile_ids: [threads, room] tiles, of each thread the first ``needed``.
        needed: [threads].
        ranges: [tiles + 1] int32, written: where each tile's list begins.
        lists: [pairs] int32, written: Gaussians.
        slots: [pairs] int32, written: where each pair of ``lists`` stands in the flat ``tile_ids``.
    """
    ranges[:] = 0
    for thread in range(needed.shape[0]):
        for k in range(needed[thread]):
            ranges[tile_ids[thread, k] + 1] += 1
    for tile in range(1, ranges.shape[0]):
        ranges[tile] += ranges[tile - 1]
    cursors, flat = ranges[:-1].copy(), tile_ids.reshape(-1)
    for k in range(total):
        i = order[k]
        for at in range(offsets[i], offsets[i] + counts[i]):
            tile = flat[at]
            place = cursors[tile]
            cursors[tile] += 1
            lists[place] = i
            slots[place] = at
