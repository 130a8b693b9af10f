"""How much memory a training takes: the one place that knows, before a run and for estimates. No torch."""

from __future__ import annotations

# Parameters, gradients and both moments are 944 bytes a Gaussian; with their copies while the
# set changes, projections and sort keys 1,600 to 1,700 as measured on an H100 with fox (974 MiB
# with 220 k, 1370 MiB with 497 k), and there is to be something to spare.
BYTES_PER_GAUSSIAN = 2_400
BYTES_PER_PIXEL = 300
"""Of the picture that is trained on: what rendering, loss and lists take."""
PHOTO_SHARE = 4
"""Decoded photos take at most a quarter of the memory that is free."""
_RESERVE = 512 * 2**20
_SHARE = 0.85
_LEAST_GAUSSIANS = 1_000


def scene_bytes(gaussians: int, pixels: int) -> int:
    """Most memory that a scene takes while it is trained, photos and libraries aside.

    Args:
        gaussians: Most Gaussians.
        pixels: Of the largest picture.
    """
    return BYTES_PER_GAUSSIAN * gaussians + BYTES_PER_PIXEL * pixels


def affordable_gaussians(free: int, pixels: int) -> int:
    """Most Gaussians that ``free`` bytes have room for, photos and pictures set aside."""
    room = _SHARE * free - _RESERVE - scene_bytes(0, pixels)
    return max(_LEAST_GAUSSIANS, int(room / BYTES_PER_GAUSSIAN))


def photos_bytes(photos: int, pixels: int, coarse_to_fine: bool) -> int:
    """What decoded photos take, three bytes a pixel.

    Args:
        photos: How many.
        pixels: Of each.
        coarse_to_fine: Whether each is held at half and at a quarter of its size, too.
    """
    return photos * 3 * (pixels + pixels // 4 + pixels // 16 if coarse_to_fine else pixels)
