"""Light that is computed once per surface: a soft sun, the sky, and what the floor throws back.

All surfaces are Lambertian, so a point looks the same from everywhere and its light can
be stored in a map, at a lower resolution than its texture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from splatmill.sample.noise import Rgb
from splatmill.sample.shapes import Array, Shape

_SUN_DIRECTION = np.array([-0.52, -0.46, 0.72], dtype=np.float32)
_SUN_DIRECTION /= np.linalg.norm(_SUN_DIRECTION)
_SUN_SPREAD = 0.085  # tangent of the sun's half angle: a large window, so that shadows are soft
_SUN = np.array([1.02, 0.92, 0.76], dtype=np.float32)
_SKY = np.array([0.44, 0.48, 0.54], dtype=np.float32)
_BOUNCE = np.array([0.25, 0.22, 0.17], dtype=np.float32)
_NEAR = np.array([0.13, 0.115, 0.10], dtype=np.float32)  # what other things throw back
_OFFSET = np.float32(2e-3)
_OCCLUDER_REACH = 4.0  # in radii of the occluder; beyond that its share of the sky is below 2 %


def _spiral(count: int) -> tuple[Array, Array]:
    """Evenly spread points on the unit disc (Vogel's sunflower): x and y, [count] each."""
    index = np.arange(count, dtype=np.float32) + np.float32(0.5)
    radius, angle = np.sqrt(index / count), index * np.float32(math.pi * (3 - math.sqrt(5)))
    return (radius * np.cos(angle)).astype(np.float32), (radius * np.sin(angle)).astype(np.float32)


def _frame(normals: Array) -> tuple[Array, Array]:
    """Two tangents per normal, all [3, N], after Duff et al. (2017)."""
    x, y, z = normals
    sign = np.where(z < 0, np.float32(-1), np.float32(1))
    a = -1 / (sign + z)
    b = x * y * a
    return np.stack([1 + sign * x * x * a, sign * b, -sign * x]), np.stack([b, sign + y * y * a, -y])


def _sun_visibility(points: Array, normals: Array, occluders: Sequence[Shape], samples: int) -> Array:
    """Part of the sun's disc that each point sees, [N]."""
    lit = np.flatnonzero(_SUN_DIRECTION @ normals > 0)
    blocked = np.zeros((samples, lit.size), dtype=bool)
    starts = (points + normals * _OFFSET)[:, lit]
    tangent, bitangent = _frame(_SUN_DIRECTION[:, None])
    for shape in occluders:
        towards = shape.center[:, None] - starts
        ahead = _SUN_DIRECTION @ towards
        aside = np.sqrt(np.maximum((towards * towards).sum(axis=0) - ahead * ahead, 0))
        near = np.flatnonzero(
            (ahead > -shape.radius) & (aside < shape.radius + _SUN_SPREAD * (ahead + shape.radius))
        )
        if near.size == 0:
            continue
        origins = starts[:, near]
        for number, (x, y) in enumerate(zip(*_spiral(samples), strict=True)):
            ray = _SUN_DIRECTION[:, None] + np.float32(_SUN_SPREAD) * (x * tangent + y * bitangent)
            ray = np.broadcast_to(ray / np.linalg.norm(ray), origins.shape)
            blocked[number, near] |= np.isfinite(shape.intersect(origins, ray))
    visibility = np.zeros(points.shape[1], dtype=np.float32)
    visibility[lit] = 1 - blocked.mean(axis=0, dtype=np.float32)
    return visibility


def _ambient(points: Array, normals: Array, occluders: Sequence[Shape], samples: int) -> Rgb:
    """Light from everywhere but the sun, [N, 3]: cosine-weighted directions, averaged."""
    starts = points + normals * _OFFSET
    blocked = np.zeros((samples, points.shape[1]), dtype=bool)
    tangent, bitangent = _frame(normals)
    disc = list(zip(*_spiral(samples), strict=True))
    for shape in occluders:
        towards = shape.center[:, None] - starts
        distance = np.sqrt((towards * towards).sum(axis=0))
        facing = (towards * normals).sum(axis=0) > -shape.radius
        near = np.flatnonzero(facing & (distance < _OCCLUDER_REACH * shape.radius))
        if near.size == 0:
            continue
        origins, up, across, along = starts[:, near], normals[:, near], tangent[:, near], bitangent[:, near]
        for number, (x, y) in enumerate(disc):
            ray = x * across + y * along + np.float32(math.sqrt(max(0.0, 1 - x * x - y * y))) * up
            blocked[number, near] |= np.isfinite(shape.intersect(origins, ray))
    light = np.zeros((points.shape[1], 3), dtype=np.float32)
    for number, (x, y) in enumerate(disc):
        height = (
            x * tangent[2]
            + y * bitangent[2]
            + np.float32(math.sqrt(max(0.0, 1 - x * x - y * y))) * normals[2]
        )
        open_light = np.where((height > 0)[:, None], _SKY, _BOUNCE)
        light += np.where(blocked[number][:, None], _NEAR, open_light)
    return light / np.float32(samples)


def light_maps(
    surfaces: Sequence[tuple[Array, Array]],
    occluders: Sequence[Shape],
    sun_samples: int = 20,
    sky_samples: int = 28,
) -> list[Rgb]:
    """Irradiance over pi at points on surfaces.

    Args:
        surfaces: Points and outward normals, [3, N] each, per surface.
        occluders: What may stand in the way of light.
        sun_samples: Rays per point towards the sun's disc.
        sky_samples: Rays per point over the hemisphere.

    Returns:
        [N, 3] per surface: what a white surface would show.
    """
    points = np.concatenate([surface[0] for surface in surfaces], axis=1)
    normals = np.concatenate([np.asarray(surface[1]) for surface in surfaces], axis=1)
    slope = np.maximum(_SUN_DIRECTION @ normals, 0)
    sun = slope * _sun_visibility(points, normals, occluders, sun_samples)
    light = sun[:, None] * _SUN + _ambient(points, normals, occluders, sky_samples)
    ends = np.cumsum([surface[0].shape[1] for surface in surfaces])[:-1]
    return np.split(light, ends)


def stretched(light: Rgb, height: int, width: int) -> Rgb:
    """A light map interpolated to a texture's size.

    Args:
        light: [h, w, 3].
        height: Wanted rows.
        width: Wanted columns.

    Returns:
        [height, width, 3].
    """
    channels = [
        Image.fromarray(np.ascontiguousarray(light[..., channel])).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        for channel in range(3)
    ]
    return np.asarray(np.maximum(np.stack([np.asarray(channel) for channel in channels], axis=2), 0))
