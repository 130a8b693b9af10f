"""The scene: a toy windmill, letter blocks and other things on a play mat in a nursery."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from splatmill.sample import surroundings, toys
from splatmill.sample.atlas import Atlas
from splatmill.sample.lighting import light_maps, stretched
from splatmill.sample.noise import Rgb, rgb
from splatmill.sample.shapes import Array, Box, Frustum, Room, Shape, Sphere, rotation_about

SCENE_SIZE = 9.0
"""Edge of the play mat, which everything stands on, in world units."""

_DOME_RADIUS = 14.0
_LIGHT_SPACING = 0.05  # world units between points of a light map
_LIGHT_SPACING_FAR = 0.22
_WALL_FACE = 2  # of the room, which comes first
_WALL_LIGHT = np.array([0.92, 0.9, 0.86], dtype=np.float32)  # even, as if by lamps of its own
_MAT_PIXELS, _FLOOR_PIXELS, _WALL_PIXELS = 1280, 1536, (448, 1792)


@dataclass
class Thing:
    """A shape and the textures of its faces."""

    shape: Shape
    textures: list[Rgb]  # sRGB per face, [H, W, 3]
    casts_shadow: bool = True


@dataclass
class Scene:
    """Everything that a picture is rendered from."""

    shapes: list[Shape]
    first_texture: list[int]  # number of the texture of each shape's first face
    atlas: Atlas
    texels_per_unit: Array = field(repr=False)  # [textures], of the finest level


class _Toys:
    """Puts the things on the mat, one method for each kind."""

    def __init__(self, rng: np.random.Generator):
        self._rng = rng

    def all(self) -> Iterator[Thing]:
        """Everything that stands on the mat."""
        yield from self._mill()
        yield from self._word("SPLAT", radius=2.75, start=-52.0, step=23.0)
        yield from self._stack()
        yield from self._books()
        yield from self._round_things()
        yield from self._pencils()

    def _plain(self, color: str, size: int = 96) -> Rgb:
        return toys.wood(size, size, color, "6b4426", self._rng)

    def _mill(self) -> Iterator[Thing]:
        rng, x, y = self._rng, 0.0, 0.35
        body = toys.mill_body(520, 1100, rng)
        yield Thing(
            Frustum((x, y, 0.12), 0.92, 0.58, 1.95), [body, self._plain("caa06a"), self._plain("caa06a")]
        )
        base = toys.bricks(40, 1300, 2, 60, rng)
        yield Thing(
            Frustum((x, y, 0), 1.16, 1.12, 0.12), [base, self._plain("b98f5c", 220), self._plain("b98f5c")]
        )
        gallery = toys.wood(24, 1100, "b07a45", "5c3a1c", rng)
        yield Thing(
            Frustum((x, y, 0.95), 1.08, 1.08, 0.07),
            [gallery, self._plain("c08a52", 220), self._plain("c08a52", 160)],
        )
        roof = toys.shingles(260, 900, 9, 34, rng)
        yield Thing(
            Frustum((x, y, 2.07), 0.70, 0.10, 0.72),
            [roof, self._plain("7b5a3a", 32), self._plain("7b5a3a", 160)],
        )
        hub = np.array([x, y - 0.86, 2.25], dtype=np.float32)
        axle = Frustum(
            (float(hub[0]), float(hub[1]) + 0.62, float(hub[2])), 0.07, 0.07, 0.7, rotation_about("x", 90)
        )
        yield Thing(
            axle,
            [
                toys.wood(64, 64, "8a5a30", "4a2c12", rng),
                self._plain("5c3a1c", 32),
                self._plain("5c3a1c", 32),
            ],
        )
        yield Thing(
            Sphere((float(hub[0]), float(hub[1]), float(hub[2])), 0.13),
            [toys.wood(48, 96, "d0392f", "8d2018", rng)],
        )
        for number in range(4):
            turn = rotation_about("y", 24.0 + 90.0 * number)
            offset = turn @ np.array([0.92, 0.0, 0.13], dtype=np.float32)
            center = hub + offset
            paint = toys.PAINTS[(0, 1, 3, 2)[number]]
            faces = [
                toys.sail(110, 360, paint, rng),
                self._plain("6b4426", 32),
                toys.sail(110, 360, paint, rng),
            ]
            faces += [self._plain("6b4426", 32) for _ in range(3)]
            yield Thing(Box(tuple(center), (1.5, 0.045, 0.42), turn), faces)

    def _block(self, letter: str, number: int, x: float, y: float, z: float, turn: float) -> Thing:
        rng, edge, pixels = self._rng, 0.68, 136
        paints = [toys.PAINTS[(number + side) % len(toys.PAINTS)] for side in range(5)]
        faces = [toys.letter_face(letter, paint, pixels, rng) for paint in paints[:4]]
        faces += [toys.block_top(paints[4], number % 4, pixels, rng), self._plain("dcbf8a", 32)]
        return Thing(Box((x, y, z + edge / 2), (edge, edge, edge), rotation_about("z", turn)), faces)

    def _word(self, word: str, radius: float, start: float, step: float) -> Iterator[Thing]:
        for number, letter in enumerate(word):
            angle = np.radians(start + step * number)
            turn = start + step * number + float(self._rng.uniform(-7, 7))
            yield self._block(
                letter, number, radius * float(np.sin(angle)), -radius * float(np.cos(angle)), 0.0, turn
            )

    def _stack(self) -> Iterator[Thing]:
        x, y = -0.75, 2.55
        for number, (letter, dx, z, turn) in enumerate(
            (
                ("M", 0.78, 0.0, 172.0),
                ("I", 0.0, 0.0, 186.0),
                ("L", -0.77, 0.0, 178.0),
                ("L", 0.33, 0.68, 190.0),
            )
        ):
            yield self._block(letter, number + 5, x + dx, y - 0.03 * number, z, turn)

    def _books(self) -> Iterator[Thing]:
        rng, z = self._rng, 0.0
        volumes = (
            ("CAMERAS", "33527a", (1.55, 1.12, 0.24), 96.0),
            ("POINTS", "8c2f39", (1.4, 1.02, 0.2), 84.0),
            ("LIGHT", "3b6b4a", (1.16, 0.86, 0.27), 108.0),
        )
        for title, paint, size, turn in volumes:
            wide, deep, thick = size
            high, long, short = round(thick * 180), round(wide * 180), round(deep * 180)
            faces = [
                toys.book_side(high, long, title, paint, True, rng),
                toys.book_side(high, short, title, paint, False, rng),
                toys.book_side(high, long, title, paint, False, rng),
                toys.book_side(high, short, title, paint, False, rng),
                toys.book_cover(short, long, title, paint, rng),
                self._plain(paint, 32),
            ]
            yield Thing(Box((-2.75, 0.75, z + thick / 2), size, rotation_about("z", turn - 180)), faces)
            z += thick

    def _round_things(self) -> Iterator[Thing]:
        rng = self._rng
        tilt = rotation_about("z", 40) @ rotation_about("x", 23)
        yield Thing(Sphere((2.55, 0.95, 0.86), 0.72, tilt), [toys.globe(440, 880, rng)])
        stand = toys.wood(60, 400, "9c6a3a", "54331a", rng)
        yield Thing(
            Frustum((2.55, 0.95, 0), 0.46, 0.28, 0.2),
            [stand, self._plain("9c6a3a", 96), self._plain("9c6a3a", 32)],
        )
        yield Thing(
            Sphere((-2.95, -0.95, 0.47), 0.47, rotation_about("x", 63)), [toys.beach_ball(300, 600, rng)]
        )
        inside = np.broadcast_to(rgb("2a2620"), (32, 32, 3)).astype(np.float32)
        yield Thing(Frustum((1.85, 2.55, 0), 0.40, 0.46, 0.98), [toys.delft(190, 560, rng), inside, inside])
        orange = toys.wood(120, 240, "f0a53a", "d9701c", rng)
        yield Thing(Sphere((3.15, -0.62, 0.27), 0.27), [orange])

    def _pencils(self) -> Iterator[Thing]:
        places = ((-3.3, -2.5, 40.0, 0), (-2.7, 2.6, -28.0, 1), (2.5, -2.95, 118.0, 3))
        for x, y, turn, paint in places:
            lying = rotation_about("z", turn) @ rotation_about("x", 90)
            side = toys.pencil(300, 96, toys.PAINTS[paint], self._rng)
            ends = [self._plain("d98a8a", 24), self._plain("e8c9a0", 24)]
            yield Thing(Frustum((x, y, 0.1), 0.1, 0.1, 1.6, lying), [side, *ends])


def _things(rng: np.random.Generator) -> list[Thing]:
    room = Thing(
        Room(SCENE_SIZE, _DOME_RADIUS),
        [
            surroundings.play_mat(_MAT_PIXELS, rng),
            surroundings.planks(_FLOOR_PIXELS, 26, rng),
            surroundings.painted_wall(*_WALL_PIXELS, rng),
        ],
        casts_shadow=False,
    )
    return [room, *_Toys(rng).all()]


def _linear(srgb: Rgb) -> Rgb:
    """Linear light of sRGB values (IEC 61966-2-1)."""
    x = np.clip(srgb, 0, 1)
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4).astype(np.float32)


def _lattice(size: tuple[float, float], spacing: float) -> tuple[int, int, Array, Array]:
    """Rows, columns, u and v of the points of a face's light map."""
    rows, columns = (int(np.clip(round(side / spacing), 3, 160)) for side in size)
    v, u = np.mgrid[0:rows, 0:columns].astype(np.float32) + np.float32(0.5)
    return rows, columns, (u / columns).ravel(), (v / rows).ravel()


@lru_cache(maxsize=1)
def build_scene(seed: int = 0) -> Scene:
    """Makes textures and bakes light into them.

    Args:
        seed: Of every random choice.

    Returns:
        The scene; the last one made is kept.
    """
    things = _things(np.random.default_rng([seed, 1]))
    surfaces, shapes_of_maps, faces = [], [], []
    for thing in things:
        far = isinstance(thing.shape, Room)
        for face, texture in enumerate(thing.textures):
            spacing = _LIGHT_SPACING_FAR if far and face > 0 else _LIGHT_SPACING
            rows, columns, u, v = _lattice(thing.shape.face_sizes[face], spacing)
            surfaces.append(thing.shape.surface(face, u, v))
            shapes_of_maps.append((rows, columns, 3))
            faces.append((texture, thing.shape.face_sizes[face]))
    occluders = [thing.shape for thing in things if thing.casts_shadow]
    maps = light_maps(surfaces, occluders)
    maps[_WALL_FACE] = np.broadcast_to(_WALL_LIGHT, maps[_WALL_FACE].shape)
    textures = [
        _linear(texture) * stretched(light.reshape(shape), texture.shape[0], texture.shape[1])
        for (texture, _), light, shape in zip(faces, maps, shapes_of_maps, strict=True)
    ]
    counts = [len(thing.textures) for thing in things]
    density = [min(texture.shape[0] / size[0], texture.shape[1] / size[1]) for texture, size in faces]
    return Scene(
        shapes=[thing.shape for thing in things],
        first_texture=np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(int).tolist(),
        atlas=Atlas(textures),
        texels_per_unit=np.array(density, dtype=np.float32),
    )
