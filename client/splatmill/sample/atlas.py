"""All textures of the scene in one flat array of texels, with smaller copies for far away."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from splatmill.sample.noise import Rgb

_LEVELS = 6


class Atlas:
    """Textures by number, each a pyramid of box-filtered halves.

    Args:
        textures: Linear radiance per texture, [H, W, 3] float32.
    """

    def __init__(self, textures: list[Rgb]):
        count = len(textures)
        self._offsets = np.zeros((count, _LEVELS), dtype=np.int32)
        self._heights = np.zeros((count, _LEVELS), dtype=np.int32)
        self._widths = np.zeros((count, _LEVELS), dtype=np.int32)
        parts: list[Rgb] = []
        total = 0
        for number, texture in enumerate(textures):
            picture = texture
            for level in range(_LEVELS):
                height, width = picture.shape[:2]
                self._offsets[number, level] = total
                self._heights[number, level], self._widths[number, level] = height, width
                parts.append(picture.reshape(-1, 3))
                total += height * width
                picture = _halved(picture)
        # Red, green, blue and a float of padding as one 16-byte item: numpy gathers single
        # items about ten times faster than rows of three.
        texels = np.zeros((total, 4), dtype=np.float32)
        np.concatenate(parts, out=texels[:, :3])
        self._texels: NDArray[np.complex128] = texels.view(np.complex128).ravel()

    def sample(
        self,
        texture: NDArray[np.int32],
        u: NDArray[np.float32],
        v: NDArray[np.float32],
        level: NDArray[np.int32],
    ) -> Rgb:
        """Colours at texture coordinates, interpolated bilinearly within one level.

        Args:
            texture: Numbers of textures, [N].
            u: Across, 0 to 1, [N].
            v: Down, 0 to 1, [N].
            level: Times that the texture is halved, [N]; clipped to what there is.

        Returns:
            Linear radiance, [N, 3].
        """
        key = texture * np.int32(_LEVELS) + np.clip(level, 0, _LEVELS - 1)
        width, height = self._widths.ravel()[key], self._heights.ravel()[key]
        start = self._offsets.ravel()[key]
        half = np.float32(0.5)
        x = np.clip(u * width - half, 0, width - np.float32(1.001)).astype(np.float32)
        y = np.clip(v * height - half, 0, height - np.float32(1.001)).astype(np.float32)
        np.maximum(x, 0, out=x)  # textures one texel wide
        np.maximum(y, 0, out=y)
        column, row = x.astype(np.int32), y.astype(np.int32)
        x -= column
        y -= row
        right = np.minimum(column + 1, width - 1) - column
        below = (np.minimum(row + 1, height - 1) - row) * width
        corner = start + row * width + column
        x, y = x[:, None], y[:, None]
        upper = self._gather(corner)
        upper += (self._gather(corner + right) - upper) * x
        corner += below
        lower = self._gather(corner)
        lower += (self._gather(corner + right) - lower) * x
        lower -= upper
        lower *= y
        upper += lower
        return upper[:, :3]

    def _gather(self, index: NDArray[np.int32]) -> NDArray[np.float32]:
        """Texels by number, [N, 4]."""
        return np.take(self._texels, index, mode="clip").view(np.float32).reshape(-1, 4)


def _halved(picture: Rgb) -> Rgb:
    """Each axis halved where it is longer than one texel, an odd last line dropped."""
    if picture.shape[0] > 1:
        even = picture.shape[0] // 2 * 2
        picture = (picture[0:even:2] + picture[1:even:2]) / np.float32(2)
    if picture.shape[1] > 1:
        even = picture.shape[1] // 2 * 2
        picture = (picture[:, 0:even:2] + picture[:, 1:even:2]) / np.float32(2)
    return picture
