"""Ray tracing of the scene with numpy: primary rays only, since light is baked."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from splatmill.sample.camera import SampleCamera
from splatmill.sample.noise import Rgb
from splatmill.sample.scene import Scene, build_scene
from splatmill.sample.shapes import Array, Shape

_SUPERSAMPLES = 2  # per pixel and axis
_BAND_ROWS = 48  # pixels; keeps a band's arrays within the cache


def render_view(camera: SampleCamera, seed: int = 0) -> NDArray[np.uint8]:
    """Renders the scene as a camera sees it.

    Args:
        camera: Where from, and how large.
        seed: Of the scene's textures.

    Returns:
        sRGB picture, [height, width, 3].
    """
    scene = build_scene(seed)
    picture = np.empty((camera.height, camera.width, 3), dtype=np.uint8)
    for top in range(0, camera.height, _BAND_ROWS):
        bottom = min(camera.height, top + _BAND_ROWS)
        picture[top:bottom] = _encode(_render_band(scene, camera, top, bottom))
    return picture


def _encode(linear: Rgb) -> NDArray[np.uint8]:
    """sRGB bytes of linear light (IEC 61966-2-1)."""
    x = np.clip(linear, 0, 1)
    srgb = np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.power(np.maximum(x, 1e-6), 1 / 2.4) - 0.055)
    return np.asarray(srgb * 255 + 0.5, dtype=np.uint8)


def _render_band(scene: Scene, camera: SampleCamera, top: int, bottom: int) -> Rgb:
    """Linear light of the rows from ``top`` to ``bottom``, [rows, width, 3]."""
    n = _SUPERSAMPLES
    rows, columns = (bottom - top) * n, camera.width * n
    x = ((np.arange(columns, dtype=np.float32) + 0.5) / n - camera.cx) / camera.fx
    y = ((np.arange(rows, dtype=np.float32) + 0.5) / n + top - camera.cy) / camera.fy
    world_from_cam = camera.cam_from_world[:3, :3].T.astype(np.float32)
    local = np.stack(np.broadcast_arrays(x[None, :], y[:, None], np.float32(1)))
    length = np.sqrt((local * local).sum(axis=0))
    directions = (world_from_cam @ (local / length).reshape(3, -1)).reshape(3, rows, columns)
    origin = camera.position.astype(np.float32)[:, None]

    depth = np.full((rows, columns), np.inf, dtype=np.float32)
    owner = np.zeros((rows, columns), dtype=np.int16)
    for number, shape in enumerate(scene.shapes):
        window = _window(shape, camera, top, bottom)
        if window is None:
            continue
        area = directions[:, window[0], window[1]]
        t = shape.intersect(origin, area.reshape(3, -1)).reshape(area.shape[1:])
        nearer = t < depth[window]
        depth[window][nearer] = t[nearer]
        owner[window][nearer] = number
    footprint = depth * length / np.float32(camera.fx * n)
    points = origin + directions.reshape(3, -1) * depth.reshape(-1)
    samples = _shade(scene, owner.reshape(-1), points, footprint.reshape(-1))
    pixels = samples.reshape(bottom - top, n, camera.width, n, 3)
    total = np.zeros((bottom - top, camera.width, 3), dtype=np.float32)
    for i in range(n):
        for j in range(n):
            total += pixels[:, i, :, j]
    return total / np.float32(n * n)


def _window(shape: Shape, camera: SampleCamera, top: int, bottom: int) -> tuple[slice, slice] | None:
    """Supersampled rows and columns of a band that may show a shape; None when none can."""
    n = _SUPERSAMPLES
    everything = (slice(0, (bottom - top) * n), slice(0, camera.width * n))
    center = camera.cam_from_world[:3, :3] @ shape.center + camera.cam_from_world[:3, 3]
    distance = float(np.linalg.norm(center))
    if distance <= shape.radius * 1.01:
        return everything
    if center[2] < -shape.radius:
        return None
    if center[2] <= shape.radius * 1.01:
        return everything
    # A sphere lies within the projections of its circumscribed cube's front and back.
    spans = []
    for axis, focal, middle in ((0, camera.fx, camera.cx), (1, camera.fy, camera.cy)):
        corners = [
            (center[axis] + side * shape.radius) / (center[2] + end * shape.radius)
            for side in (-1, 1)
            for end in (-1, 1)
        ]
        spans.append((min(corners) * focal + middle, max(corners) * focal + middle))
    left, right = max(0, int(spans[0][0]) - 1), min(camera.width, int(spans[0][1]) + 2)
    upper, lower = max(top, int(spans[1][0]) - 1), min(bottom, int(spans[1][1]) + 2)
    if left >= right or upper >= lower:
        return None
    return slice((upper - top) * n, (lower - top) * n), slice(left * n, right * n)


def _shade(scene: Scene, owner: NDArray[np.int16], points: Array, footprint: Array) -> Rgb:
    """Linear light of the points that rays hit.

    Args:
        scene: The scene.
        owner: Shape that each point lies on, [N].
        points: [3, N].
        footprint: Width of a sample at each point, in world units, [N].

    Returns:
        [N, 3].
    """
    texture = np.empty(owner.shape, dtype=np.int32)
    u, v = np.empty(owner.shape, dtype=np.float32), np.empty(owner.shape, dtype=np.float32)
    for number in np.unique(owner):
        where = np.flatnonzero(owner == number)
        face, u[where], v[where] = scene.shapes[number].texture_coordinates(points[:, where])
        texture[where] = face + scene.first_texture[number]
    texels = np.maximum(footprint * scene.texels_per_unit[texture], np.float32(1e-6))
    # A level is right while a sample covers 0.7 to 1.4 of its texels.
    level = np.ceil(np.log2(texels) - np.float32(0.5)).astype(np.int32)
    return scene.atlas.sample(texture, u, v, level)
