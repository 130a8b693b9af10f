"""Photos that do not all fit into memory: a bounded cache that worker threads fill ahead of the training.

The order in which photos are trained on is known, so the next ones are decoded while the
present one is in use; of those that were used, the ones not used for longest go first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import overload

from torch import Tensor

AHEAD = 8
"""Photos that are decoded before they are asked for."""
_WORKERS = 4

Decode = Callable[[], Sequence[Tensor]]


class PhotoCache:
    """Decoded photos, the bytes of which stay within a budget.

    One photo larger than the budget is held alone while it is used.

    Args:
        budget: Bytes.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.pinned = False
        """Whether pictures lie in page-locked memory, from which a GPU copies by itself."""
        self._lock = threading.Lock()
        self._photos: OrderedDict[Hashable, tuple[Tensor, ...]] = OrderedDict()
        self._coming: dict[Hashable, Future[None]] = {}
        self._pool = ThreadPoolExecutor(_WORKERS, "photos")
        self.bytes = 0
        """Held now."""
        self.most_bytes = 0
        """Held at most so far."""

    def get(self, key: Hashable, decode: Decode) -> tuple[Tensor, ...]:
        """A photo at all its sizes, from memory or through ``decode``."""
        while True:
            with self._lock:
                known = self._photos.get(key)
                if known is not None:
                    self._photos.move_to_end(key)
                    return known
                coming = self._coming.get(key)
            if coming is None:
                return self._load(key, decode)
            coming.result()  # raises what decoding did

    def prefetch(self, key: Hashable, decode: Decode) -> None:
        """Has a photo decoded by a worker thread, where it is not there already."""
        with self._lock:
            if key in self._photos:
                self._photos.move_to_end(key)
            elif key not in self._coming:
                self._coming[key] = self._pool.submit(self._fetch, key, decode)

    def _fetch(self, key: Hashable, decode: Decode) -> None:
        try:
            self._load(key, decode)
        finally:
            with self._lock:
                self._coming.pop(key, None)

    def _load(self, key: Hashable, decode: Decode) -> tuple[Tensor, ...]:
        photo = tuple(picture.pin_memory() if self.pinned else picture for picture in decode())
        with self._lock:
            if key not in self._photos:
                self._make_room(bytes_of(photo))
                self._photos[key] = photo
                self.bytes += bytes_of(photo)
                self.most_bytes = max(self.most_bytes, self.bytes)
        return photo

    def _make_room(self, size: int) -> None:
        while self._photos and self.bytes + size > self.budget:
            _, oldest = self._photos.popitem(last=False)
            self.bytes -= bytes_of(oldest)


class CachedPictures(Sequence[Tensor]):
    """A photo's pictures as ``View`` has them, decoded when they are asked for.

    Args:
        cache: Where they are held.
        key: The photo's.
        decode: Reads it at all its sizes.
        levels: Which of these are meant.
        size: Bytes of all of them.
    """

    def __init__(self, cache: PhotoCache, key: Hashable, decode: Decode, levels: range, size: int) -> None:
        self.cache = cache
        self.size = size
        self._key, self._decode, self._levels = key, decode, levels

    def __len__(self) -> int:
        """How many sizes."""
        return len(self._levels)

    @overload
    def __getitem__(self, level: int) -> Tensor: ...
    @overload
    def __getitem__(self, level: slice) -> CachedPictures: ...
    def __getitem__(self, level: int | slice) -> Tensor | CachedPictures:
        """One of them, or some."""
        if isinstance(level, slice):
            return CachedPictures(self.cache, self._key, self._decode, self._levels[level], self.size)
        return self.cache.get(self._key, self._decode)[self._levels[level]]

    def __iter__(self) -> Iterator[Tensor]:
        """All of them."""
        return (self[level] for level in range(len(self)))

    def changed(self, change: Callable[[Tensor], Tensor]) -> CachedPictures:
        """What ``change`` makes of each of them, whenever it is decoded."""
        decode, levels = self._decode, self._levels

        def both() -> list[Tensor]:
            pictures = decode()
            return [change(pictures[level]) for level in levels]

        return CachedPictures(self.cache, (self._key, "changed"), both, range(len(levels)), self.size)

    def prefetch(self) -> None:
        """Says that they are needed soon."""
        self.cache.prefetch(self._key, self._decode)


def prefetch(upcoming: Sequence[Sequence[Tensor]]) -> None:
    """Has as many of the next photos decoded as the cache has room for beside the present one.

    Args:
        upcoming: Their pictures, the next one first; those in memory anyway are passed over.
    """
    cached = [pictures for pictures in upcoming[:AHEAD] if isinstance(pictures, CachedPictures)]
    if not cached:
        return
    room = cached[0].cache.budget - max(pictures.size for pictures in cached)
    for pictures in cached:
        room -= pictures.size
        if room < 0:
            break
        pictures.prefetch()


def bytes_of(photo: Sequence[Tensor]) -> int:
    """What a photo takes in memory at all its sizes, decoded or not."""
    return photo.size if isinstance(photo, CachedPictures) else sum(picture.numel() for picture in photo)
