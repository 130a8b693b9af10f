"""Solids that rays are traced against, each with faces that carry a texture.

A face is a rectangle of texture coordinates (u, v) in 0 to 1, v growing downwards on
upright faces. Every shape can go both ways: from a point on it to (face, u, v) when a
picture is rendered, and from (face, u, v) to point and normal when light is baked.
Vectors are stored as [3, N], so that each coordinate is one contiguous row.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Index = NDArray[np.int32]
FaceSizes = tuple[tuple[float, float], ...]  # height and width of each face in world units

_EPSILON = np.float32(1e-4)
_TWO_PI = np.float32(2 * math.pi)


class Shape(Protocol):
    """A closed convex solid in the world."""

    center: Array  # [3], of the bounding sphere
    radius: float  # of the bounding sphere
    face_sizes: FaceSizes

    def intersect(self, origins: Array, directions: Array) -> Array:
        """Distance along each ray to the first hit.

        Args:
            origins: [3, N] or [3, 1].
            directions: [3, N], unit.

        Returns:
            [N], inf where the ray misses.
        """
        ...

    def texture_coordinates(self, points: Array) -> tuple[Index, Array, Array]:
        """Face, u and v ([N] each) of points on the surface, [3, N]."""
        ...

    def surface(self, face: int, u: Array, v: Array) -> tuple[Array, Array]:
        """Points and outward unit normals ([3, N] each) of texture coordinates of a face."""
        ...


def rotation_about(axis: str, degrees: float) -> Array:
    """World-from-local rotation about a coordinate axis, [3, 3]."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrices = {
        "x": [[1, 0, 0], [0, c, -s], [0, s, c]],
        "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
        "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
    }
    return np.array(matrices[axis], dtype=np.float32)


def _nearest_positive(near: Array, far: Array, hit: NDArray[np.bool_]) -> Array:
    t = np.where(near > _EPSILON, near, far)
    return np.where(hit & (t > _EPSILON), t, np.float32(np.inf))


class Sphere:
    """A ball; its one face is a map of longitude (u) and latitude (v, the north on top)."""

    def __init__(self, center: tuple[float, float, float], radius: float, rotation: Array | None = None):
        self.center: Array = np.array(center, dtype=np.float32)
        self.radius = radius
        self._rotation = np.eye(3, dtype=np.float32) if rotation is None else rotation
        self.face_sizes: FaceSizes = ((math.pi * radius, 2 * math.pi * radius),)

    def intersect(self, origins: Array, directions: Array) -> Array:
        """See ``Shape``."""
        local = origins - self.center[:, None]
        b = (local * directions).sum(axis=0)
        c = (local * local).sum(axis=0) - np.float32(self.radius**2)
        discriminant = b * b - c
        root = np.sqrt(np.maximum(discriminant, 0))
        return _nearest_positive(-b - root, -b + root, discriminant > 0)

    def texture_coordinates(self, points: Array) -> tuple[Index, Array, Array]:
        """See ``Shape``."""
        x, y, z = self._rotation.T @ (points - self.center[:, None]) / np.float32(self.radius)
        u = np.arctan2(y, x) / _TWO_PI + np.float32(0.5)
        v = np.arccos(np.clip(z, -1, 1)) / np.float32(math.pi)
        return np.zeros(u.shape, dtype=np.int32), u, v

    def surface(self, face: int, u: Array, v: Array) -> tuple[Array, Array]:
        """See ``Shape``."""
        longitude, colatitude = (u - np.float32(0.5)) * _TWO_PI, v * np.float32(math.pi)
        ring = np.sin(colatitude)
        local = np.stack([ring * np.cos(longitude), ring * np.sin(longitude), np.cos(colatitude)])
        normals = self._rotation @ local
        return self.center[:, None] + np.float32(self.radius) * normals, normals


class Box:
    """A cuboid; faces are -y (front), +x (right), +y (back), -x (left), +z (top), -z (bottom)."""

    # Per face, in the local frame: outward normal, direction of u, direction of v.
    _FRAMES = (
        ((0, -1, 0), (1, 0, 0), (0, 0, -1)),
        ((1, 0, 0), (0, 1, 0), (0, 0, -1)),
        ((0, 1, 0), (-1, 0, 0), (0, 0, -1)),
        ((-1, 0, 0), (0, -1, 0), (0, 0, -1)),
        ((0, 0, 1), (1, 0, 0), (0, -1, 0)),
        ((0, 0, -1), (1, 0, 0), (0, 1, 0)),
    )

    def __init__(
        self,
        center: tuple[float, float, float],
        size: tuple[float, float, float],
        rotation: Array | None = None,
    ):
        self.center: Array = np.array(center, dtype=np.float32)
        self._half: Array = np.array(size, dtype=np.float32) / np.float32(2)
        self._rotation = np.eye(3, dtype=np.float32) if rotation is None else rotation
        self.radius = float(np.linalg.norm(self._half))
        x, y, z = size
        self.face_sizes: FaceSizes = ((z, x), (z, y), (z, x), (z, y), (y, x), (y, x))

    def intersect(self, origins: Array, directions: Array) -> Array:
        """See ``Shape``; slabs after Kay and Kajiya (1986)."""
        local = self._rotation.T @ (origins - self.center[:, None])
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = np.float32(1) / (self._rotation.T @ directions)
            middle, reach = -local * inverse, np.abs(self._half[:, None] * inverse)
        near = np.fmax(np.fmax(middle[0] - reach[0], middle[1] - reach[1]), middle[2] - reach[2])
        far = np.fmin(np.fmin(middle[0] + reach[0], middle[1] + reach[1]), middle[2] + reach[2])
        return _nearest_positive(near, far, far > near)

    def texture_coordinates(self, points: Array) -> tuple[Index, Array, Array]:
        """See ``Shape``."""
        local = self._rotation.T @ (points - self.center[:, None]) / self._half[:, None]
        axis = np.abs(local).argmax(axis=0)
        positive = np.take_along_axis(local, axis[None], axis=0)[0] > 0
        face = np.choose(axis, [np.where(positive, 1, 3), np.where(positive, 2, 0), np.where(positive, 4, 5)])
        x, y, z = local
        u = np.choose(face, [x, y, -x, -y, x, x])
        v = np.choose(face, [-z, -z, -z, -z, -y, y])
        half = np.float32(0.5)
        return face.astype(np.int32), u * half + half, v * half + half

    def surface(self, face: int, u: Array, v: Array) -> tuple[Array, Array]:
        """See ``Shape``."""
        normal, along_u, along_v = (np.array(axis, dtype=np.float32)[:, None] for axis in self._FRAMES[face])
        local = (normal + along_u * (2 * u - 1) + along_v * (2 * v - 1)) * self._half[:, None]
        normals = np.broadcast_to(self._rotation @ normal, local.shape)
        return self.center[:, None] + self._rotation @ local, normals


class Frustum:
    """A cylinder or cut cone standing on ``base``; faces are side, top, bottom.

    The side's u goes around, starting and ending at the back (local -x), v from top to bottom.
    """

    def __init__(
        self,
        base: tuple[float, float, float],
        bottom_radius: float,
        top_radius: float,
        height: float,
        rotation: Array | None = None,
    ):
        self._base: Array = np.array(base, dtype=np.float32)
        self._rotation = np.eye(3, dtype=np.float32) if rotation is None else rotation
        self._bottom, self._top, self._height = bottom_radius, top_radius, height
        widest = max(bottom_radius, top_radius)
        self.center: Array = self._base + self._rotation @ np.array([0, 0, height / 2], dtype=np.float32)
        self.radius = math.hypot(widest, height / 2)
        slant = math.hypot(height, bottom_radius - top_radius)
        self.face_sizes: FaceSizes = (
            (slant, 2 * math.pi * widest),
            (2 * top_radius, 2 * top_radius),
            (2 * bottom_radius, 2 * bottom_radius),
        )

    def intersect(self, origins: Array, directions: Array) -> Array:
        """See ``Shape``."""
        ox, oy, oz = self._rotation.T @ (origins - self._base[:, None])
        dx, dy, dz = self._rotation.T @ directions
        slope = np.float32((self._top - self._bottom) / self._height)
        # |(x, y)| = bottom + slope z along the ray is a quadratic a t^2 + 2 b t + c = 0.
        radius_at_origin = np.float32(self._bottom) + slope * oz
        a = dx * dx + dy * dy - (slope * dz) ** 2
        b = ox * dx + oy * dy - slope * dz * radius_at_origin
        c = ox * ox + oy * oy - radius_at_origin**2
        best = np.full(dx.shape, np.inf, dtype=np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            root = np.sqrt(b * b - a * c)
            for t in ((-b - root) / a, (-b + root) / a):
                z = oz + t * dz
                best = np.where((t > _EPSILON) & (z >= 0) & (z <= self._height) & (t < best), t, best)
            for level, radius in ((0.0, self._bottom), (self._height, self._top)):
                t = (np.float32(level) - oz) / dz
                inside = (ox + t * dx) ** 2 + (oy + t * dy) ** 2 < np.float32(radius**2)
                best = np.where((t > _EPSILON) & inside & (t < best), t, best)
        return best

    def texture_coordinates(self, points: Array) -> tuple[Index, Array, Array]:
        """See ``Shape``."""
        x, y, z = self._rotation.T @ (points - self._base[:, None])
        height = np.float32(self._height)
        side_distance = np.abs(
            np.hypot(x, y) - (self._bottom + np.float32(self._top - self._bottom) * z / height)
        )
        face_distances = np.stack([side_distance, np.abs(z - height), np.abs(z)])
        face = face_distances.argmin(axis=0)
        half = np.float32(0.5)
        top, bottom = np.float32(0.5 / max(self._top, 1e-6)), np.float32(0.5 / max(self._bottom, 1e-6))
        u = np.choose(face, [np.arctan2(y, x) / _TWO_PI + half, x * top + half, x * bottom + half])
        v = np.choose(face, [1 - z / height, half - y * top, half + y * bottom])
        return face.astype(np.int32), u, v

    def surface(self, face: int, u: Array, v: Array) -> tuple[Array, Array]:
        """See ``Shape``."""
        if face == 0:
            angle, z = (u - np.float32(0.5)) * _TWO_PI, (1 - v) * np.float32(self._height)
            ring = self._bottom + np.float32((self._top - self._bottom) / self._height) * z
            local = np.stack([ring * np.cos(angle), ring * np.sin(angle), z])
            lean = np.full_like(u, (self._bottom - self._top) / self._height)
            normals = np.stack([np.cos(angle), np.sin(angle), lean])
            normals /= np.sqrt((normals * normals).sum(axis=0))
        else:
            sign, radius, level = (1, self._top, self._height) if face == 1 else (-1, self._bottom, 0.0)
            x, y = (2 * u - 1) * radius, (1 - 2 * v) * radius * sign
            local = np.stack([x, y, np.full_like(x, level)])
            normals = np.stack([np.zeros_like(x), np.zeros_like(x), np.full_like(x, sign)])
        return self._base[:, None] + self._rotation @ local, self._rotation @ normals


class Room:
    """The inside of a dome over a floor; faces are play mat, floor, dome (u around, v from the zenith)."""

    def __init__(self, mat_size: float, dome_radius: float):
        self.mat_size, self.dome_radius = mat_size, dome_radius
        self.center: Array = np.zeros(3, dtype=np.float32)
        self.radius = dome_radius
        self.face_sizes: FaceSizes = (
            (mat_size, mat_size),
            (2 * dome_radius, 2 * dome_radius),
            (dome_radius * math.pi / 2, 2 * math.pi * dome_radius),
        )

    def intersect(self, origins: Array, directions: Array) -> Array:
        """See ``Shape``; a ray from inside always hits."""
        b = (origins * directions).sum(axis=0)
        c = (origins * origins).sum(axis=0) - np.float32(self.dome_radius**2)
        dome = -b + np.sqrt(np.maximum(b * b - c, 0))
        with np.errstate(divide="ignore", invalid="ignore"):
            floor = -origins[2] / directions[2]
        return np.asarray(np.where((floor > _EPSILON) & (floor < dome), floor, dome))

    def texture_coordinates(self, points: Array) -> tuple[Index, Array, Array]:
        """See ``Shape``."""
        x, y, z = points
        half, mat, floor = np.float32(0.5), np.float32(1 / self.mat_size), np.float32(0.5 / self.dome_radius)
        on_mat = np.maximum(np.abs(x), np.abs(y)) * mat <= half
        on_floor = (z < 1e-3) & ~on_mat
        on_mat &= z < 1e-3
        face = np.where(on_mat, 0, np.where(on_floor, 1, 2))
        # 2 / pi: the dome's face spans a quarter circle from the zenith to the floor.
        from_zenith = np.arccos(np.clip(z / np.float32(self.dome_radius), 0, 1)) * np.float32(2 / math.pi)
        u = np.choose(face, [x * mat + half, x * floor + half, np.arctan2(y, x) / _TWO_PI + half])
        v = np.choose(face, [half - y * mat, half - y * floor, from_zenith])
        return face.astype(np.int32), u, v

    def surface(self, face: int, u: Array, v: Array) -> tuple[Array, Array]:
        """See ``Shape``."""
        zero = np.zeros_like(u)
        if face < 2:
            size = np.float32(self.mat_size if face == 0 else 2 * self.dome_radius)
            half = np.float32(0.5)
            return np.stack([(u - half) * size, (half - v) * size, zero]), np.stack([zero, zero, zero + 1])
        angle, colatitude = (u - np.float32(0.5)) * _TWO_PI, v * np.float32(math.pi / 2)
        ring = np.sin(colatitude)
        outward = np.stack([ring * np.cos(angle), ring * np.sin(angle), np.cos(colatitude)])
        return np.float32(self.dome_radius) * outward, -outward
