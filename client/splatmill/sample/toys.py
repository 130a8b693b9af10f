"""Textures of the things on the mat. All sRGB, [H, W, 3]."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from splatmill.sample.noise import Rgb, fractal_noise, mix, rgb, smoothstep, value_noise

PAINTS = ("c8372d", "2f6fa8", "2e8b57", "e0a020", "7a4a9e", "d8632a", "1f8a8a", "b8336a", "4a6a2a")


def _drawn(
    height: int, width: int, background: Rgb, scale: int = 2
) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    color = tuple(int(value) for value in np.round(background * 255))
    image = Image.new("RGB", (width * scale, height * scale), color)
    return image, ImageDraw.Draw(image)


def _picture(image: Image.Image, height: int, width: int) -> Rgb:
    small = image.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(small, dtype=np.float32) / np.float32(255)


def _worn(picture: Rgb, rng: np.random.Generator, strength: float = 0.16) -> Rgb:
    """Paint is never even: broad shades, fine grain and a few scratches."""
    height, width = picture.shape[:2]
    grain = fractal_noise(height, width, (height / 40 + 1, width / 40 + 1), rng, octaves=5)
    fine = value_noise(height, width, (height / 2.5, width / 2.5), rng)
    shade = 1 - strength + strength * (1.3 * grain + 0.7 * fine)
    scratches = smoothstep(0.83, 0.9, value_noise(height, width, (height / 14, width / 3), rng))
    return mix(np.clip(picture * shade[..., None], 0, 1), rgb("e8d3a8"), scratches * np.float32(0.35))


def wood(height: int, width: int, light: str, dark: str, rng: np.random.Generator) -> Rgb:
    """Bare wood with the grain along the width."""
    rings = fractal_noise(height, width, (height / 18 + 1, width / 110 + 1), rng, octaves=3)
    lines = 0.5 + 0.5 * np.sin(rings * 34)
    fine = value_noise(height, width, (height / 2, width / 24 + 1), rng)
    return mix(rgb(light), rgb(dark), np.clip(0.5 * lines + 0.5 * fine, 0, 1) * np.float32(0.8))


def letter_face(letter: str, paint: str, size: int, rng: np.random.Generator) -> Rgb:
    """A side of a letter block: bare wood, a painted frame and a letter.

    Args:
        letter: What stands on it.
        paint: Colour of frame and letter, hexadecimal.
        size: Height and width in pixels.
        rng: Where variation comes from.

    Returns:
        [size, size, 3].
    """
    base = wood(size, size, "ecd2a0", "c59a5e", rng)
    image = Image.new("L", (size * 2, size * 2), 0)
    draw = ImageDraw.Draw(image)
    edge = size * 2
    draw.rounded_rectangle(
        (0, 0, edge - 1, edge - 1), radius=edge * 0.04, outline=255, width=round(edge * 0.075)
    )
    font = ImageFont.load_default(round(edge * 0.74))
    draw.text((edge / 2, edge / 2), letter, fill=255, font=font, anchor="mm", stroke_width=edge // 60)
    mask = np.asarray(image.resize((size, size), Image.Resampling.LANCZOS), dtype=np.float32) / np.float32(
        255
    )
    return _worn(mix(base, rgb(paint), mask), rng)


def block_top(paint: str, dots: int, size: int, rng: np.random.Generator) -> Rgb:
    """The top of a letter block: a painted flower with as many petals as ``dots`` plus four."""
    base = wood(size, size, "ecd2a0", "c59a5e", rng)
    row, column = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
    angle, radius = np.arctan2(row, column), np.hypot(row, column)
    petals = 0.52 + 0.2 * np.cos((dots + 4) * angle + float(rng.uniform(0, 6)))
    mask = smoothstep(0.04, -0.04, radius - petals) * smoothstep(0.16, 0.22, radius)
    frame = smoothstep(0.85, 0.87, np.maximum(np.abs(row), np.abs(column)))
    return _worn(mix(base, rgb(paint), np.maximum(mask, frame)), rng)


def bricks(height: int, width: int, rows: int, around: int, rng: np.random.Generator) -> Rgb:
    """A wall of bricks, each of its own shade, whitewashed towards the top."""
    y = np.linspace(0, rows, height, endpoint=False, dtype=np.float32)[:, None]
    row = np.floor(y).astype(np.int32)
    x = np.linspace(0, around, width, endpoint=False, dtype=np.float32)[None, :] + np.where(
        row % 2 == 1, 0.5, 0.0
    )
    column = np.floor(x).astype(np.int32) % around
    tone = rng.random((rows, around), dtype=np.float32)[row, column]
    burnt = rng.random((rows, around), dtype=np.float32)[row, column] > 0.9
    face = mix(rgb("9c4a32"), rgb("cf7f55"), tone)
    face[burnt] *= np.float32(0.62)
    grit = fractal_noise(height, width, (rows * 2, around * 2), rng, octaves=4)
    face *= (0.72 + 0.5 * grit)[..., None]
    joint = (np.abs(x - np.floor(x) - 0.5) > 0.455) | (np.abs(y - row - 0.5) > 0.4)
    wall = np.where(joint[..., None], rgb("cdbfa8") * (0.8 + 0.3 * grit)[..., None], face)
    lime = smoothstep(0.52, 0.42, y / rows + 0.35 * (fractal_noise(height, width, (5, 9), rng) - 0.5))
    return np.asarray(
        mix(wall, wall * np.float32(0.22) + rgb("efe6d2") * np.float32(0.74), lime), dtype=np.float32
    )


def mill_body(height: int, width: int, rng: np.random.Generator) -> Rgb:
    """The mill's tower: bricks with a door and windows, no two on the same level."""
    picture = bricks(height, width, 26, 34, rng)
    image = Image.fromarray(np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)).resize(
        (width * 2, height * 2)
    )
    draw = ImageDraw.Draw(image)
    w, h = width * 2, height * 2
    # The front (local -y) is at u = 0.25.
    openings = (
        (0.25, 0.80, 0.050, 0.2, "6b3b22"),
        (0.25, 0.30, 0.030, 0.10, "31506b"),
        (0.52, 0.55, 0.034, 0.11, "31506b"),
    )
    more = (
        (0.80, 0.36, 0.034, 0.11, "31506b"),
        (0.70, 0.84, 0.045, 0.16, "2f5d3a"),
        (0.03, 0.45, 0.03, 0.11, "31506b"),
    )
    for u, v, half_width, tall, color in openings + more:
        left, right, top, bottom = (
            (u - half_width) * w,
            (u + half_width) * w,
            (v - tall / 2) * h,
            (v + tall / 2) * h,
        )
        frame = 0.011 * w
        draw.rectangle((left - frame, top - frame, right + frame, bottom + frame), fill="#f2ead6")
        draw.rectangle((left, top, right, bottom), fill=f"#{color}")
        middle = (left + right) / 2
        draw.line((middle, top, middle, bottom), fill="#f2ead6", width=max(2, w // 260))
        for part in (0.33, 0.66):
            y = top + part * (bottom - top)
            draw.line((left, y, right, y), fill="#f2ead6", width=max(2, w // 300))
    return _picture(image, height, width)


def shingles(height: int, width: int, rows: int, around: int, rng: np.random.Generator) -> Rgb:
    """A roof of overlapping round shingles in slate colours."""
    y = np.linspace(0, rows, height, endpoint=False, dtype=np.float32)[:, None]
    row = np.floor(y).astype(np.int32)
    x = np.linspace(0, around, width, endpoint=False, dtype=np.float32)[None, :] + np.where(
        row % 2 == 1, 0.5, 0.0
    )
    column = np.floor(x).astype(np.int32) % around
    tone = rng.random((rows, around), dtype=np.float32)[row, column]
    color = mix(rgb("2c5f6b"), rgb("6fa3a0"), tone)
    rust = rng.random((rows, around), dtype=np.float32)[row, column] > 0.88
    color[rust] = rgb("a8653f")
    fx, fy = x - np.floor(x) - 0.5, y - row
    shadow = smoothstep(0.55, 1.0, np.hypot(fx * 1.25, np.maximum(fy - 0.35, 0) * 1.4) + 0.25)
    color *= (1 - 0.65 * shadow)[..., None]
    return color * (0.8 + 0.4 * fractal_noise(height, width, (rows, around), rng))[..., None]


def sail(height: int, width: int, paint: str, rng: np.random.Generator) -> Rgb:
    """A sail: canvas behind a lattice, with one painted panel."""
    canvas = mix(rgb("f1e4c6"), rgb("d2bd93"), fractal_noise(height, width, (8, 24), rng))
    image, draw = _drawn(height, width, np.zeros(3, dtype=np.float32))
    w, h = width * 2, height * 2
    panel = int(rng.integers(1, 6))
    draw.rectangle((w * panel / 8, 0, w * (panel + 1.5) / 8, h), fill=f"#{paint}")
    picture = _picture(image, height, width)
    canvas = np.where(picture.sum(axis=2, keepdims=True) > 0.2, picture * canvas * np.float32(1.15), canvas)
    image, draw = _drawn(height, width, np.zeros(3, dtype=np.float32))
    for bar in range(9):
        draw.line((w * bar / 8, 0, w * bar / 8, h), fill="white", width=max(4, w // 70))
    for level in (0.0, 0.36, 0.68, 1.0):
        draw.line((0, h * level, w, h * level), fill="white", width=max(6, h // 16))
    lattice = _picture(image, height, width)[..., 0]
    return mix(canvas, wood(height, width, "6b4426", "46290f", rng), lattice)


def globe(height: int, width: int, rng: np.random.Generator) -> Rgb:
    """A map of a world that does not exist, with a graticule."""
    latitude = np.linspace(1, -1, height, dtype=np.float32)[:, None] * np.ones((1, width), dtype=np.float32)
    terrain = fractal_noise(height, width, (4, 8), rng, octaves=6)
    land = smoothstep(0.505, 0.515, terrain)
    dry = fractal_noise(height, width, (5, 10), rng)
    ground = mix(
        mix(rgb("4f8a4a"), rgb("d9b46a"), smoothstep(0.4, 0.6, dry)),
        rgb("8a5f3c"),
        smoothstep(0.6, 0.75, terrain),
    )
    sea = mix(rgb("1f5a8c"), rgb("58a3c4"), smoothstep(0.3, 0.505, terrain))
    picture = mix(sea, ground, land)
    coast = smoothstep(0.016, 0.006, np.abs(terrain - 0.51))
    picture = mix(picture, rgb("f5ecd0"), coast * np.float32(0.8))
    ice = smoothstep(0.78, 0.82, np.abs(latitude) + 0.16 * (dry - 0.5))
    picture = mix(picture, rgb("f6f7f4"), ice)
    column = np.linspace(0, 24, width, endpoint=False, dtype=np.float32)[None, :]
    lines = (np.abs(column - np.round(column)) < 0.035) | (
        np.abs(latitude * 6 - np.round(latitude * 6)) < 0.03
    )
    picture = np.where(lines[..., None], picture * np.float32(0.72), picture)
    return picture * (0.85 + 0.25 * value_noise(height, width, (height / 4, width / 4), rng))[..., None]


def beach_ball(height: int, width: int, rng: np.random.Generator) -> Rgb:
    """Wedges of colour with scattered stars and worn paint."""
    image, draw = _drawn(height, width, rgb("f4efe2"))
    w, h = width * 2, height * 2
    for wedge, color in enumerate(("d7263d", "f4efe2", "2f6fa8", "f2c230", "f4efe2", "2e8b57")):
        draw.rectangle((w * wedge / 6, 0, w * (wedge + 1) / 6, h), fill=f"#{color}")
    for _ in range(46):
        x, y, size = (
            float(rng.uniform(0, w)),
            float(rng.uniform(0.2 * h, 0.8 * h)),
            float(rng.uniform(0.02, 0.05) * h),
        )
        turn = float(rng.uniform(0, 6))
        star = []
        for tip in range(10):
            reach = size if tip % 2 == 0 else size * 0.45
            angle = turn + tip * math.pi / 5
            star.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
        draw.polygon(star, fill=f"#{PAINTS[int(rng.integers(len(PAINTS)))]}")
    return _worn(_picture(image, height, width), rng, 0.2)


def book_cover(height: int, width: int, title: str, paint: str, rng: np.random.Generator) -> Rgb:
    """A cloth cover: title, author's line, a frame and an ornament."""
    image, draw = _drawn(height, width, rgb(paint))
    w, h = width * 2, height * 2
    gold = "#efd28a"
    draw.rectangle((w * 0.04, h * 0.05, w * 0.96, h * 0.95), outline=gold, width=max(3, h // 60))
    draw.text((w / 2, h * 0.27), title, fill=gold, font=ImageFont.load_default(h * 0.18), anchor="mm")
    for _ in range(26):
        x, y = float(rng.uniform(0.12, 0.88) * w), float(rng.uniform(0.47, 0.87) * h)
        r = float(rng.uniform(0.015, 0.05) * h)
        color = gold if rng.random() < 0.5 else f"#{PAINTS[int(rng.integers(len(PAINTS)))]}"
        draw.ellipse((x - r, y - r, x + r, y + r), fill=color)
    return _worn(_picture(image, height, width), rng, 0.22)


def book_side(height: int, width: int, title: str, paint: str, spine: bool, rng: np.random.Generator) -> Rgb:
    """A spine with its title, or the edges of the pages between two covers."""
    image, draw = _drawn(height, width, rgb(paint) if spine else rgb("f0e6cf"))
    w, h = width * 2, height * 2
    if spine:
        draw.text((w / 2, h / 2), title, fill="#efd28a", font=ImageFont.load_default(h * 0.62), anchor="mm")
        for x in (0.06, 0.1, 0.9, 0.94):
            draw.line((w * x, 0, w * x, h), fill="#efd28a", width=max(3, w // 160))
        return _worn(_picture(image, height, width), rng, 0.2)
    picture = _picture(image, height, width)
    pages = value_noise(height, width, (height / 2, width / 90 + 1), rng)
    picture = picture * (0.66 + 0.4 * pages)[..., None]
    edge = np.abs(np.linspace(-1, 1, height)) > 0.82
    picture[edge] = rgb(paint) * np.float32(0.9)
    return picture


def delft(height: int, width: int, rng: np.random.Generator) -> Rgb:
    """White glaze with blue painting: bands of leaves between rings."""
    v = np.linspace(0, 1, height, dtype=np.float32)[:, None] * np.ones((1, width), dtype=np.float32)
    vines = np.abs(fractal_noise(height, width, (6, 12), rng, octaves=3) - 0.5)
    leaves = smoothstep(0.55, 0.62, fractal_noise(height, width, (9, 18), rng, octaves=2))
    painted = np.maximum(smoothstep(0.03, 0.012, vines), leaves * np.float32(0.85))
    painted *= smoothstep(0.12, 0.16, v) * smoothstep(0.9, 0.86, v)
    for level, half in ((0.08, 0.018), (0.13, 0.006), (0.89, 0.006), (0.94, 0.02)):
        painted = np.maximum(painted, smoothstep(half, half * 0.6, np.abs(v - level)))
    glaze = mix(rgb("f4f5f1"), rgb("dfe6ea"), fractal_noise(height, width, (6, 12), rng))
    ink = mix(rgb("1d3f8f"), rgb("4a73bd"), fractal_noise(height, width, (20, 40), rng))
    return mix(glaze, ink, painted)


def pencil(height: int, width: int, paint: str, rng: np.random.Generator) -> Rgb:
    """A painted pencil with a band near its end; v runs along its length."""
    image, draw = _drawn(height, width, rgb(paint))
    w, h = width * 2, height * 2
    draw.rectangle((0, 0, w, h * 0.05), fill="#e8c9a0")
    draw.rectangle((0, h * 0.84, w, h * 0.9), fill="#c9b037")
    draw.rectangle((0, h * 0.92, w, h), fill="#d98a8a")
    for mark in range(9):
        y = float(rng.uniform(0.12, 0.8)) * h
        draw.rectangle((w * float(rng.random()), y, w, y + h * 0.008 * (1 + mark % 3)), fill="#f2ead6")
    return _worn(_picture(image, height, width), rng)
