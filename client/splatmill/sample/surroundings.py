"""Textures of the room: planks, a play mat of tulip fields, painted walls. All sRGB, [H, W, 3]."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from splatmill.sample.noise import Field, Rgb, fractal_noise, mix, rgb, smoothstep, value_noise

_TULIPS = ("d7263d", "f4a300", "e85d9a", "7d3c98", "f6f0e6", "e2571e", "f2d43c", "b01e5a")
_GREENS = ("4f7f3a", "5d8f45", "6f9a4d", "3f6d3a")
_TREES = tuple(rgb(name) for name in ("3e6b45", "557f3d", "2f5a4a", "7d9a3f", "c98b3a", "b5573a"))
_WATER = rgb("3f8fb0")
_PATH = rgb("cdb38b")


def planks(size: int, across: int, rng: np.random.Generator) -> Rgb:
    """Floor boards of oak.

    Args:
        size: Height and width in pixels.
        across: How many boards lie side by side.
        rng: Where variation comes from.

    Returns:
        [size, size, 3].
    """
    row, column = np.mgrid[0:size, 0:size].astype(np.float32) / np.float32(size)
    board = np.floor(column * across).astype(np.int32)
    offset = rng.random(across, dtype=np.float32)[board]
    length = row * np.float32(5.5) + offset * 3
    piece = np.floor(length).astype(np.int32)
    tone = rng.random((across, 16), dtype=np.float32)[board, piece % 16]
    grain = fractal_noise(size, size, (22, 5.5 * across), rng, octaves=3)
    rings = np.sin(fractal_noise(size, size, (7, 1.5 * across), rng, octaves=2) * 46 + tone * 20)
    wood = mix(rgb("8d6238"), rgb("cfa06a"), np.clip(0.55 * tone + 0.45 * grain + 0.09 * rings, 0, 1))
    stain = smoothstep(0.42, 0.75, fractal_noise(size, size, (14, 14), rng))
    wood *= (1 - 0.22 * stain)[..., None]
    seam = np.minimum(np.abs(column * across - board - 0.5), 0.5) > 0.5 - 0.022
    end = np.abs(length - piece - 0.5) > 0.5 - 0.005
    return np.where((seam | end)[..., None], wood * np.float32(0.42), wood)


@dataclass(frozen=True)
class _Plot:
    """A field: a rectangle in mat units (0 to 1)."""

    left: float
    top: float
    right: float
    bottom: float


def _split(plot: _Plot, depth: int, rng: np.random.Generator) -> list[_Plot]:
    width, height = plot.right - plot.left, plot.bottom - plot.top
    if depth == 0 or max(width, height) < 0.13:
        return [plot]
    cut = float(rng.uniform(0.34, 0.66))
    if width > height:
        x = plot.left + cut * width
        halves = (_Plot(plot.left, plot.top, x, plot.bottom), _Plot(x, plot.top, plot.right, plot.bottom))
    else:
        y = plot.top + cut * height
        halves = (_Plot(plot.left, plot.top, plot.right, y), _Plot(plot.left, y, plot.right, plot.bottom))
    return [part for half in halves for part in _split(half, depth - 1, rng)]


def _tulip_rows(height: int, width: int, rng: np.random.Generator) -> Rgb:
    """Rows of flowers on green: broad stripes of one or two colours, speckled with blossoms."""
    row, column = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = float(rng.choice([0.0, math.pi / 2])) + float(rng.uniform(-0.12, 0.12))
    along = row * math.cos(angle) + column * math.sin(angle)
    pitch = float(rng.uniform(17, 27))
    stripe = smoothstep(-0.5, 0.1, np.sin(along * np.float32(2 * math.pi / pitch)))
    colors = [rgb(str(name)) for name in rng.choice(_TULIPS, size=2, replace=False)]
    patches = smoothstep(0.4, 0.6, value_noise(height, width, (height / 60, width / 60), rng))
    flowers = mix(colors[0], colors[1], patches * float(rng.choice([0.0, 1.0], p=[0.35, 0.65])))
    speckle = value_noise(height, width, (height / 5, width / 5), rng)
    green = mix(rgb("3f6d3a"), rgb("6a984a"), value_noise(height, width, (height / 9, width / 9), rng))
    flowers *= (0.68 + 0.42 * speckle)[..., None]
    return mix(green, flowers, stripe * smoothstep(0.12, 0.3, speckle))


def _meadow(height: int, width: int, rng: np.random.Generator) -> Rgb:
    """Grass with daisies."""
    a, b = (rgb(str(name)) for name in rng.choice(_GREENS, size=2, replace=False))
    grass = mix(a, b, fractal_noise(height, width, (height / 50, width / 50), rng, octaves=4))
    grass *= (0.82 + 0.3 * value_noise(height, width, (height / 4, width / 4), rng))[..., None]
    daisies = smoothstep(0.86, 0.93, value_noise(height, width, (height / 7, width / 7), rng))
    return mix(grass, rgb("f7f3d8"), daisies * np.float32(0.9))


def _pond(height: int, width: int, rng: np.random.Generator) -> Rgb:
    """Water with lily pads in a meadow."""
    row, column = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    shore = np.hypot(row, column) + 0.5 * (fractal_noise(height, width, (5, 5), rng) - 0.5)
    waves = fractal_noise(height, width, (height / 14, width / 40), rng, octaves=3)
    water = mix(rgb("2f7f9f"), rgb("8fcbd6"), waves)
    pads = smoothstep(0.74, 0.78, value_noise(height, width, (height / 17, width / 17), rng))
    water = mix(water, rgb("5c9a4a"), pads)
    ground = mix(_meadow(height, width, rng), rgb("d8c49a"), smoothstep(0.95, 0.82, shore))
    return mix(ground, water, smoothstep(0.84, 0.76, shore))


def _furrows(height: int, width: int, rng: np.random.Generator) -> Rgb:
    """A ploughed or a ripe field."""
    row, column = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = float(rng.uniform(0, math.pi))
    wobble = 7 * value_noise(height, width, (height / 40, width / 40), rng)
    along = row * math.cos(angle) + column * math.sin(angle) + wobble
    ridge = 0.5 + 0.5 * np.sin(along * np.float32(2 * math.pi / rng.uniform(11, 16)))
    dark, light = (("6e4a2f", "a9794c"), ("c99a3a", "efd27a"))[int(rng.integers(2))]
    clods = value_noise(height, width, (height / 6, width / 6), rng)
    return mix(rgb(dark), rgb(light), np.clip(0.5 * ridge + 0.5 * clods, 0, 1))


def play_mat(size: int, rng: np.random.Generator) -> Rgb:
    """A woven mat that shows a polder from above: fields, canals and paths, no two alike.

    Args:
        size: Height and width in pixels.
        rng: Where variation comes from.

    Returns:
        [size, size, 3].
    """
    picture = np.empty((size, size, 3), dtype=np.float32)
    picture[:] = _PATH
    kinds = (_tulip_rows, _tulip_rows, _meadow, _furrows, _tulip_rows, _pond)
    margin = 0.022
    gap = max(2, round(size * 0.006))
    for number, plot in enumerate(_split(_Plot(margin, margin, 1 - margin, 1 - margin), 6, rng)):
        top, bottom = round(plot.top * size) + gap, round(plot.bottom * size) - gap
        left, right = round(plot.left * size) + gap, round(plot.right * size) - gap
        canal = number % 3 == 0
        if canal:
            picture[top - gap : bottom + gap, left - gap : right + gap] = _WATER
        inset = gap if canal else 0
        top, bottom, left, right = top + inset, bottom - inset, left + inset, right - inset
        kind = kinds[number % len(kinds)]
        picture[top:bottom, left:right] = kind(bottom - top, right - left, rng)
    weave = value_noise(size, size, (size / 3, size / 3), rng)
    shade = fractal_noise(size, size, (9, 9), rng)
    picture *= (0.86 + 0.14 * weave + 0.16 * (shade - 0.5))[..., None]
    return _hem(picture, rng)


def _hem(picture: Rgb, rng: np.random.Generator) -> Rgb:
    """Sews a border with uneven stitches around the mat."""
    size = picture.shape[0]
    row, column = np.mgrid[0:size, 0:size].astype(np.float32)
    edge = np.minimum(np.minimum(row, size - 1 - row), np.minimum(column, size - 1 - column)) / size
    cloth = mix(rgb("22405f"), rgb("33597f"), value_noise(size, size, (size / 6, size / 6), rng))
    stitch = (np.abs(edge - 0.012) < 0.0022) & (value_noise(size, size, (90, 90), rng) > 0.45)
    cloth[stitch] = rgb("f0dfb8")
    return np.where((edge < 0.02)[..., None], cloth, picture)


def _hills(height: int, width: int, ridge: Field, color: Rgb, dark: Rgb, rng: np.random.Generator) -> Rgb:
    """One range of painted hills; returns RGBA, [height, width, 4]."""
    row = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    inside = smoothstep(-0.002, 0.002, row - ridge[None, :])
    brush = fractal_noise(height, width, (16, 64), rng, octaves=5)
    body = mix(color, dark, smoothstep(0.3, 0.7, brush))
    return np.concatenate([body, inside[..., None]], axis=2)


def _trees(picture: Rgb, ridge: Field, size: float, tint: Rgb, rng: np.random.Generator) -> Rgb:
    """Paints firs and round trees, and houses among them, along and below a ridge."""
    height, width = picture.shape[:2]
    image = Image.fromarray(np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8))
    image = image.resize((2 * width, 2 * height), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(image)
    for _ in range(round(2.2 / size)):
        x = float(rng.uniform(0, 2 * width))
        ground = (float(ridge[int(x / 2) % width]) + float(rng.uniform(0.002, 0.05))) * 2 * height
        tall = size * 2 * height * float(rng.uniform(0.7, 1.4))
        leaf = (_TREES[int(rng.integers(len(_TREES)))] * 0.75 + tint * 0.25) * float(rng.uniform(0.8, 1.15))
        fill = tuple(int(value) for value in np.clip(leaf * 255, 0, 255))
        kind = int(rng.integers(9))
        if kind == 0:
            wide = tall * 0.45
            wall = f"#{('f3e7d0', 'e9c9a4', 'd98a6a')[int(rng.integers(3))]}"
            draw.rectangle((x - wide, ground - tall * 0.5, x + wide, ground), fill=wall)
            draw.polygon(
                [
                    (x - wide * 1.2, ground - tall * 0.5),
                    (x, ground - tall),
                    (x + wide * 1.2, ground - tall * 0.5),
                ],
                fill="#a8452f",
            )
        elif kind < 5:
            for step in range(3):
                top, reach = ground - tall * (1 - 0.24 * step), tall * (0.14 + 0.07 * step)
                draw.polygon(
                    [(x, top), (x - reach, top + tall * 0.42), (x + reach, top + tall * 0.42)], fill=fill
                )
            draw.line(
                (x, ground - tall * 0.1, x, ground + tall * 0.06),
                fill="#6b4a2f",
                width=max(2, round(tall * 0.07)),
            )
        else:
            draw.line((x, ground - tall * 0.5, x, ground), fill="#6b4a2f", width=max(2, round(tall * 0.09)))
            r = tall * 0.32
            draw.ellipse((x - r, ground - tall, x + r, ground - tall + 2.1 * r), fill=fill)
    small = image.resize((width, height), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32) / np.float32(255)


def painted_wall(height: int, width: int, rng: np.random.Generator) -> Rgb:
    """Walls and ceiling of a nursery: hills and trees below, clouds and birds above.

    Args:
        height: Pixels from the zenith to the floor.
        width: Pixels around.
        rng: Where variation comes from.

    Returns:
        [height, width, 3].
    """
    row = np.repeat(np.linspace(0, 1, height, dtype=np.float32)[:, None], width, axis=1)
    picture = mix(rgb("6fa8cf"), rgb("f4e6cc"), smoothstep(0.25, 0.92, row))
    clouds = fractal_noise(height, width, (9, 26), rng, octaves=5)
    picture = mix(picture, rgb("fbf7ee"), smoothstep(0.5, 0.64, clouds) * np.float32(0.85))
    picture = mix(picture, rgb("b9cbd8"), smoothstep(0.62, 0.85, clouds) * np.float32(0.5))
    picture = _birds(picture, rng)
    ranges = (
        (0.765, 0.07, 0.012, "a9c3c4", "93b0b6"),
        (0.83, 0.06, 0.02, "9dbb8e", "7ea27c"),
        (0.90, 0.05, 0.032, "86ad62", "649150"),
    )
    for level, sway, size, color, dark in ranges:
        ridge = (level + sway * (value_noise(1, width, (1, 17), rng)[0] - 0.5)).astype(np.float32)
        layer = _hills(height, width, ridge, rgb(color), rgb(dark), rng)
        picture = mix(picture, layer[..., :3], layer[..., 3])
        picture = _trees(picture, ridge, size, rgb(color), rng)
    skirting = smoothstep(0.978, 0.98, row)
    return mix(
        picture, mix(rgb("efe6d6"), rgb("d9cbb2"), value_noise(height, width, (60, 300), rng)), skirting
    )


def _birds(picture: Rgb, rng: np.random.Generator) -> Rgb:
    height, width = picture.shape[:2]
    image = Image.new("L", (2 * width, 2 * height), 0)
    draw = ImageDraw.Draw(image)
    for _ in range(70):
        x, y = float(rng.uniform(0.02, 0.98) * 2 * width), float(rng.uniform(0.45, 0.76) * 2 * height)
        wing = float(rng.uniform(8, 18))
        lift = wing * float(rng.uniform(0.3, 0.7))
        draw.line(
            [(x - wing, y - lift), (x, y), (x + wing, y - lift * 1.1)], fill=255, width=4, joint="curve"
        )
    mask = np.asarray(image.resize((width, height), Image.Resampling.BOX), dtype=np.float32) / np.float32(255)
    return mix(picture, rgb("44535f"), mask)
