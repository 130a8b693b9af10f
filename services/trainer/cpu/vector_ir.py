"""The innermost loops of compositing, written as LLVM vectors of 16 floats.

One row of a 16 x 16 tile is one vector. LLVM's auto-vectoriser reaches about half the
speed, since it must guess at what is fixed here: no tail, no aliasing, selects instead of
branches. ``composite_rows`` and ``differentiate_rows`` walk the rows of one tile that one
Gaussian reaches; a tile's state lies in planes of 256 floats behind one address.
"""

# ruff: noqa: E402, I001
from __future__ import annotations

from typing import Any

from services.trainer.cpu import environment  # noqa: F401  (before numba)

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
PLANE = 256  # floats of a tile's plane
FLAGS = ("contract", "reassoc", "nsz")
_ALPHA_MAX = 0.99
_TRANSMITTANCE_MIN = 1e-4
FLOAT = ir.FloatType()
INT = ir.IntType(64)
VECTOR = ir.VectorType(FLOAT, LANES)


def _exp_coefficients() -> list[float]:
    """Degree-5 polynomial for exp on [-0.75, 0], Chebyshev nodes; raised to the 8th power it
    is exp on [-6, 0] to 1e-6, which covers every alpha of 1/255 and more."""
    nodes = np.cos((np.arange(6) + 0.5) * np.pi / 6) * 0.375 - 0.375
    return [float(c) for c in np.polynomial.polynomial.polyfit(nodes, np.exp(nodes), 5)]


_EXP = _exp_coefficients()


class Vectors:
    """Short names for vector instructions; a value is a vector of LANES floats."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder

    def constant(self, value: float) -> Any:
        """A number in all lanes."""
        return ir.Constant(VECTOR, [ir.Constant(FLOAT, float(np.float32(value)))] * LANES)

    def splat(self, scalar: Any) -> Any:
        """A scalar value in all lanes."""
        undefined = ir.Constant(VECTOR, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
        mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return self.builder.shuffle_vector(first, undefined, mask)

    def add(self, x: Any, y: Any) -> Any:
        """x + y."""
        return self.builder.fadd(x, y, flags=FLAGS)

    def sub(self, x: Any, y: Any) -> Any:
        """x - y."""
        return self.builder.fsub(x, y, flags=FLAGS)

    def mul(self, x: Any, y: Any) -> Any:
        """x y."""
        return self.builder.fmul(x, y, flags=FLAGS)

    def div(self, x: Any, y: Any) -> Any:
        """x / y."""
        return self.builder.fdiv(x, y, flags=FLAGS)

    def less(self, x: Any, y: Any) -> Any:
        """Where x < y."""
        return self.builder.fcmp_ordered("<", x, y)

    def select(self, condition: Any, x: Any, y: Any) -> Any:
        """x where the condition holds, y elsewhere."""
        return self.builder.select(condition, x, y)

    def load(self, address: Any, offset: Any) -> Any:
        """The vector at float ``offset`` (an i64 value) behind ``address``."""
        return self.builder.load(self._pointer(address, offset), align=64)

    def store(self, value: Any, address: Any, offset: Any) -> None:
        """Writes where ``load`` reads."""
        self.builder.store(value, self._pointer(address, offset), align=64)

    def _pointer(self, address: Any, offset: Any) -> Any:
        """Address of float ``offset`` (an i64 value) behind ``address``."""
        byte = self.builder.add(address, self.builder.mul(offset, ir.Constant(INT, 4)))
        return self.builder.inttoptr(byte, VECTOR.as_pointer())

    def total(self, vector: Any) -> Any:
        """Sum of the lanes."""
        function = cgutils.get_or_insert_function(
            self.builder.module, ir.FunctionType(FLOAT, [FLOAT, VECTOR]), "llvm.vector.reduce.fadd.v16f32"
        )
        return self.builder.call(function, [ir.Constant(FLOAT, 0.0), vector], fastmath=("reassoc",))

    def exp_of_negative(self, power: Any) -> Any:
        """exp(-power) for power in [0, 6]."""
        y = self.mul(power, self.constant(-1 / 8))
        value = self.constant(_EXP[5])
        for coefficient in reversed(_EXP[:5]):
            value = self.add(self.mul(value, y), self.constant(coefficient))
        for _ in range(3):
            value = self.mul(value, value)
        return value


class _Gaussian:
    """A Gaussian's numbers as vectors, and its falloff along a row."""

    def __init__(
        self, v: Vectors, dx: Any, half_a: Any, b: Any, half_c: Any, opacity: Any, limit: Any
    ) -> None:
        self._v = v
        lanes = ir.Constant(VECTOR, [ir.Constant(FLOAT, float(lane)) for lane in range(LANES)])
        self.dx = v.sub(v.splat(dx), lanes)
        self._quadratic = v.mul(v.splat(half_a), v.mul(self.dx, self.dx))
        self._b, self._half_c = b, half_c
        self._opacity, self._limit = v.splat(opacity), v.splat(limit)

    def alpha(self, dy: Any) -> tuple[Any, Any, Any]:
        """Opacity before clamping, alpha, and where it counts, along the row at distance dy."""
        v, builder = self._v, self._v.builder
        b_dy = v.splat(builder.fmul(self._b, dy, flags=FLAGS))
        c_dy = v.splat(builder.fmul(self._half_c, builder.fmul(dy, dy, flags=FLAGS), flags=FLAGS))
        power = v.add(v.add(v.mul(self.dx, b_dy), self._quadratic), c_dy)
        raw = v.mul(self._opacity, v.exp_of_negative(power))
        alpha = v.select(v.less(raw, v.constant(_ALPHA_MAX)), raw, v.constant(_ALPHA_MAX))
        return raw, alpha, builder.fcmp_ordered("<=", power, self._limit)


def _row_offset(builder: ir.IRBuilder, row: Any, plane: int) -> Any:
    return builder.add(builder.mul(row, ir.Constant(INT, LANES)), ir.Constant(INT, plane * PLANE))


@intrinsic
def composite_rows(typing, state, first, last, dx, dy, half_a, b, half_c, opacity, limit, red, green, blue):
    """Blends one Gaussian into rows first .. last - 1 of a tile.

    State planes: 0 transmittance (0 once the pixel is done), 1 to 3 colour, 4 transmittance
    that a done pixel had, for the background.

    Args:
        typing: numba's.
        state: Address of the planes, 64-byte aligned.
        first: First row.
        last: Behind the last row.
        dx: Mean's x less that of the tile's first pixel centre.
        dy: The same for y.
        half_a: Half the conic's a.
        b: The conic's b.
        half_c: Half the conic's c.
        opacity: 0 to 1.
        limit: Power beyond which alpha is below 1/255.
        red: Colour.
        green: Colour.
        blue: Colour.
    """
    floats = (types.float32,) * 10
    signature = types.void(types.uintp, types.intp, types.intp, *floats)

    def codegen(context, builder, sig, arguments):
        address, begin, end, x, y, ha, hb, hc, o, lim, *color = arguments
        v = Vectors(builder)
        gaussian = _Gaussian(v, x, ha, hb, hc, o, lim)
        colors = [v.splat(c) for c in color]
        zero = v.constant(0.0)
        with cgutils.for_range_slice(builder, begin, end, ir.Constant(INT, 1), inc=True) as (row, _):
            distance = builder.fsub(y, builder.sitofp(row, FLOAT), flags=FLAGS)
            places = [_row_offset(builder, row, plane) for plane in range(5)]
            before = v.load(address, places[0])
            _, alpha, counts = gaussian.alpha(distance)
            weight = v.mul(alpha, before)
            after = v.sub(before, weight)
            stops = v.less(after, v.constant(_TRANSMITTANCE_MIN))
            weight = v.select(builder.and_(counts, builder.not_(stops)), weight, zero)
            for color_vector, place in zip(colors, places[1:4], strict=True):
                v.store(v.add(v.load(address, place), v.mul(weight, color_vector)), address, place)
            ending = v.select(builder.and_(counts, stops), before, zero)
            v.store(v.add(v.load(address, places[4]), ending), address, places[4])
            v.store(v.select(counts, v.select(stops, zero, after), before), address, places[0])
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def differentiate_rows(
    typing, state, first, last, dx, dy, half_a, b, half_c, opacity, limit, red, green, blue, out
):
    """The gradient of ``composite_rows``; arguments as there.

    State planes: 0 transmittance, 1 the picture's gradient times the colour still to come,
    2 to 4 the picture's gradient.

    Args:
        typing: numba's.
        state: Address of the planes.
        first: First row.
        last: Behind the last row.
        dx: As in ``composite_rows``.
        dy: As there.
        half_a: As there.
        b: As there.
        half_c: As there.
        opacity: As there.
        limit: As there.
        red: As there.
        green: As there.
        blue: As there.
        out: Address of nine floats: gradient by mean x, mean y, a, b, c, opacity, red, green, blue.
    """
    floats = (types.float32,) * 10
    signature = types.void(types.uintp, types.intp, types.intp, *floats, types.uintp)

    def codegen(context, builder, sig, arguments):
        address, begin, end, x, y, ha, hb, hc, o, lim, red_, green_, blue_, target = arguments
        v = Vectors(builder)
        gaussian = _Gaussian(v, x, ha, hb, hc, o, lim)
        colors = [v.splat(c) for c in (red_, green_, blue_)]
        zero, one = v.constant(0.0), v.constant(1.0)
        # Sums over rows, a lane each: dq, dq dy, dq dy^2, weight times the picture's gradient.
        sums = [cgutils.alloca_once(builder, VECTOR) for _ in range(6)]
        for place in sums:
            builder.store(zero, place)

        def accumulate(place: Any, value: Any) -> None:
            builder.store(v.add(builder.load(place), value), place)

        with cgutils.for_range_slice(builder, begin, end, ir.Constant(INT, 1), inc=True) as (row, _):
            distance = builder.fsub(y, builder.sitofp(row, FLOAT), flags=FLAGS)
            places = [_row_offset(builder, row, plane) for plane in range(5)]
            before = v.load(address, places[0])
            raw, alpha, counts = gaussian.alpha(distance)
            weight = v.mul(alpha, before)
            after = v.sub(before, weight)
            stops = v.less(after, v.constant(_TRANSMITTANCE_MIN))
            blends = builder.and_(counts, builder.not_(stops))
            weight = v.select(blends, weight, zero)
            gradients = [v.load(address, place) for place in places[2:]]
            shade = v.mul(gradients[0], colors[0])
            for gradient, color in zip(gradients[1:], colors[1:], strict=True):
                shade = v.add(shade, v.mul(gradient, color))
            remaining = v.sub(v.load(address, places[1]), v.mul(weight, shade))
            d_alpha = v.sub(v.mul(before, shade), v.div(remaining, v.sub(one, alpha)))
            free = builder.and_(blends, builder.fcmp_ordered("<=", raw, v.constant(_ALPHA_MAX)))
            d_power = v.select(free, v.sub(zero, v.mul(alpha, d_alpha)), zero)
            by_dy = v.mul(d_power, v.splat(distance))
            accumulate(sums[0], d_power)
            accumulate(sums[1], by_dy)
            accumulate(sums[2], v.mul(by_dy, v.splat(distance)))
            for place, gradient in zip(sums[3:], gradients, strict=True):
                accumulate(place, v.mul(weight, gradient))
            v.store(remaining, address, places[1])
            v.store(v.select(counts, v.select(stops, zero, after), before), address, places[0])
        _store_record(v, gaussian.dx, [builder.load(place) for place in sums], (ha, hb, hc, o), target)
        return context.get_dummy_value()

    return signature, codegen


def _store_record(v: Vectors, dx: Any, sums: list[Any], conic: tuple[Any, ...], target: Any) -> None:
    """Writes the nine sums; dx depends on the lane alone, so it is multiplied in only here."""
    builder = v.builder
    half_a, b, half_c, opacity = conic
    by_dx = v.mul(sums[0], dx)
    s0, sx, sxx = v.total(sums[0]), v.total(by_dx), v.total(v.mul(by_dx, dx))
    sy, syy, sxy = v.total(sums[1]), v.total(sums[2]), v.total(v.mul(sums[1], dx))
    half, two = ir.Constant(FLOAT, 0.5), ir.Constant(FLOAT, 2.0)

    def mul(x: Any, y: Any) -> Any:
        return builder.fmul(x, y, flags=FLAGS)

    values = [
        builder.fadd(mul(mul(half_a, two), sx), mul(b, sy)),
        builder.fadd(mul(mul(half_c, two), sy), mul(b, sx)),
        mul(half, sxx),
        sxy,
        mul(half, syy),
        builder.fneg(builder.fdiv(s0, opacity)),
        *(v.total(each) for each in sums[3:]),
    ]
    pointer = builder.inttoptr(target, FLOAT.as_pointer())
    for number, value in enumerate(values):
        builder.store(value, builder.gep(pointer, [ir.Constant(INT, number)]))


@intrinsic
def any_positive(typing, state):
    """Whether any of the 256 floats at an address is above zero: is a pixel still open?"""
    signature = types.boolean(types.uintp)

    def codegen(context, builder, sig, arguments):
        v = Vectors(builder)
        found = v.load(arguments[0], ir.Constant(INT, 0))
        for row in range(1, LANES):
            found = v.add(found, v.load(arguments[0], ir.Constant(INT, row * LANES)))
        return builder.fcmp_ordered(">", v.total(found), ir.Constant(FLOAT, 0.0))

    return signature, codegen
