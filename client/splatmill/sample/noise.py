"""Random fields that textures are made of. All are repeatable from a seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Field = NDArray[np.float32]
Rgb = NDArray[np.float32]

_PAD = 3  # cells around the field, more than the reach of the cubic filter


def value_noise(height: int, width: int, cells: tuple[float, float], rng: np.random.Generator) -> Field:
    """Smooth noise: random values on a lattice, interpolated by cubics.

    The field wraps around from its right edge to its left one when the number of cells
    across is whole.

    Args:
        height: Rows of the field.
        width: Columns of the field.
        cells: Lattice cells down and across.
        rng: Where values come from.

    Returns:
        [height, width] in 0 to 1, with a mean near 0.5.
    """
    down, across = max(cells[0], 1.0), max(cells[1], 1.0)
    rows, columns = int(np.ceil(down)) + 2 * _PAD, int(np.ceil(across))
    lattice = np.pad(rng.random((rows, columns), dtype=np.float32), ((0, 0), (_PAD, _PAD)), mode="wrap")
    box = (_PAD, _PAD, _PAD + across, _PAD + down)
    field = Image.fromarray(lattice).resize((width, height), Image.Resampling.BICUBIC, box=box)
    return np.asarray(np.clip(np.asarray(field), 0.0, 1.0))


def fractal_noise(
    height: int, width: int, cells: tuple[float, float], rng: np.random.Generator, octaves: int = 4
) -> Field:
    """Octaves of value noise, each twice as fine and half as strong.

    Args:
        height: Rows of the field.
        width: Columns of the field.
        cells: Lattice cells of the coarsest octave, down and across.
        rng: Where values come from.
        octaves: How many; those finer than the field itself are left out.

    Returns:
        [height, width] in 0 to 1, with a mean near 0.5.
    """
    total = np.zeros((height, width), dtype=np.float32)
    weight, weights = 1.0, 0.0
    for octave in range(octaves):
        down, across = cells[0] * 2**octave, cells[1] * 2**octave
        if octave and (down > height or across > width):
            break
        total += weight * value_noise(height, width, (down, across), rng)
        weights += weight
        weight /= 2
    return total / np.float32(weights)


def smoothstep(low: float, high: float, x: Field) -> Field:
    """0 below ``low``, 1 above ``high``, a cubic without kinks between."""
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)


def mix(a: Rgb | Field, b: Rgb | Field, weight: Field) -> Rgb:
    """``a`` where ``weight`` is 0, ``b`` where it is 1.

    Args:
        a: Colour [3] or picture [H, W, 3].
        b: Colour [3] or picture [H, W, 3].
        weight: [H, W].

    Returns:
        [H, W, 3].
    """
    w = weight[..., None]
    return np.asarray(a * (1 - w) + b * w, dtype=np.float32)


def rgb(hexadecimal: str) -> Rgb:
    """The sRGB colour that six hexadecimal digits name, [3] in 0 to 1."""
    return np.array([int(hexadecimal[i : i + 2], 16) for i in (0, 2, 4)], dtype=np.float32) / np.float32(255)
