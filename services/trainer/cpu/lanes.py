"""Arithmetic on sixteen Gaussians at once: operators that write LLVM vector instructions.

What is written with them reads like the formula for one Gaussian. Nothing branches: where a
branch would be, both sides are computed and a mask chooses.
"""

# ruff: noqa: E402, I001
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from services.trainer.cpu import environment  # noqa: F401  (before numba)

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from services.trainer.cpu.vector_ir import FLOAT, INT, LANES, VECTOR, Vectors

_INTEGERS = ir.VectorType(ir.IntType(32), LANES)
_LN2 = float(np.log(2))
_LN2_HIGH = float(np.float32(0.693359375))  # few bits, so that its products with small integers are exact
_SQRT2 = float(np.sqrt(2))


def _exp_coefficients() -> list[float]:
    """Degree-6 polynomial for exp on [-ln 2 / 2, ln 2 / 2], Chebyshev nodes, to 1e-8."""
    nodes = np.cos((np.arange(7) + 0.5) * np.pi / 7) * _LN2 / 2
    return [float(c) for c in np.polynomial.polynomial.polyfit(nodes, np.exp(nodes), 6)]


_EXP = _exp_coefficients()


class Mask:
    """A truth value for each lane."""

    def __init__(self, vectors: Vectors, value: Any) -> None:
        self.vectors, self.value = vectors, value

    def __and__(self, other: Mask) -> Mask:
        return Mask(self.vectors, self.vectors.builder.and_(self.value, other.value))

    def choose(self, x: Lanes | float, y: Lanes | float) -> Lanes:
        """``x`` where it is true, ``y`` elsewhere."""
        v = self.vectors
        return Lanes(v, v.select(self.value, _raw(v, x), _raw(v, y)))


class Lanes:
    """A float for each lane. Comparisons with NaN are false."""

    def __init__(self, vectors: Vectors, value: Any) -> None:
        self.vectors, self.value = vectors, value

    def __add__(self, other: Lanes | float) -> Lanes:
        return self._with(self.vectors.add, self, other)

    def __sub__(self, other: Lanes | float) -> Lanes:
        return self._with(self.vectors.sub, self, other)

    def __mul__(self, other: Lanes | float) -> Lanes:
        return self._with(self.vectors.mul, self, other)

    def __truediv__(self, other: Lanes | float) -> Lanes:
        return self._with(self.vectors.div, self, other)

    def __radd__(self, other: float) -> Lanes:
        return self._with(self.vectors.add, other, self)

    def __rsub__(self, other: float) -> Lanes:
        return self._with(self.vectors.sub, other, self)

    def __rmul__(self, other: float) -> Lanes:
        return self._with(self.vectors.mul, other, self)

    def __rtruediv__(self, other: float) -> Lanes:
        return self._with(self.vectors.div, other, self)

    def __neg__(self) -> Lanes:
        return 0.0 - self

    def __lt__(self, other: Lanes | float) -> Mask:
        return self._compared("<", other)

    def __gt__(self, other: Lanes | float) -> Mask:
        return self._compared(">", other)

    def __ge__(self, other: Lanes | float) -> Mask:
        return self._compared(">=", other)

    def equals(self, other: Lanes) -> Mask:
        """Where both are the same number."""
        return self._compared("==", other)

    def at_least(self, other: Lanes | float) -> Lanes:
        """The larger of both; ``other`` where this is NaN."""
        return (self > other).choose(self, other)

    def at_most(self, other: Lanes | float) -> Lanes:
        """The smaller of both; ``other`` where this is NaN."""
        return (self < other).choose(self, other)

    def _with(self, operation: Any, x: Lanes | float, y: Lanes | float) -> Lanes:
        return Lanes(self.vectors, operation(_raw(self.vectors, x), _raw(self.vectors, y)))

    def _compared(self, how: str, other: Lanes | float) -> Mask:
        v = self.vectors
        return Mask(v, v.builder.fcmp_ordered(how, self.value, _raw(v, other)))


def _raw(v: Vectors, value: Lanes | float) -> Any:
    return value.value if isinstance(value, Lanes) else v.constant(value)


def _call(name: str, *arguments: Lanes | float) -> Lanes:
    """An intrinsic of LLVM, lane by lane."""
    v = next(each.vectors for each in arguments if isinstance(each, Lanes))
    kind = ir.FunctionType(VECTOR, [VECTOR] * len(arguments))
    function = cgutils.get_or_insert_function(v.builder.module, kind, f"llvm.{name}.v16f32")
    return Lanes(v, v.builder.call(function, [_raw(v, each) for each in arguments]))


def sqrt(x: Lanes) -> Lanes:
    """Square root."""
    return _call("sqrt", x)


def absolute(x: Lanes) -> Lanes:
    """Without its sign."""
    return _call("fabs", x)


def ceil(x: Lanes) -> Lanes:
    """Rounded up."""
    return _call("ceil", x)


def exp(x: Lanes) -> Lanes:
    """e^x to 1e-7, x held within [-87, 88]: 2^k by the exponent's bits, the rest by a polynomial.

    NaN counts as 88: as a size or as what lowers an opacity, that is out of all bounds.
    """
    x = x.at_most(88.0).at_least(-87.0)
    whole = _call("rint", x * (1 / _LN2))
    rest = _call("fma", whole, -_LN2_HIGH, x)
    rest = _call("fma", whole, _LN2_HIGH - _LN2, rest)
    value = rest * _EXP[6] + _EXP[5]
    for coefficient in reversed(_EXP[:5]):
        value = value * rest + coefficient
    builder = x.vectors.builder
    exponent = builder.add(builder.fptosi(whole.value, _INTEGERS), _integers(127))
    return value * Lanes(x.vectors, builder.bitcast(builder.shl(exponent, _integers(23)), VECTOR))


def log(x: Lanes) -> Lanes:
    """Natural logarithm of positive normal numbers: by the exponent's bits and a series of artanh."""
    v, builder = x.vectors, x.vectors.builder
    bits = builder.bitcast(x.value, _INTEGERS)
    exponent = builder.sub(builder.lshr(bits, _integers(23)), _integers(127))
    mantissa = builder.or_(builder.and_(bits, _integers(0x7FFFFF)), _integers(0x3F800000))
    fraction, power = (
        Lanes(v, builder.bitcast(mantissa, VECTOR)),
        Lanes(v, builder.sitofp(exponent, VECTOR)),
    )
    large = fraction > _SQRT2
    fraction, power = large.choose(fraction * 0.5, fraction), large.choose(power + 1.0, power)
    s = (fraction - 1.0) / (fraction + 1.0)
    ss = s * s
    series = 2.0 + ss * (2 / 3 + ss * (2 / 5 + ss * (2 / 7 + ss * (2 / 9))))
    return power * _LN2 + s * series


def dot(x: Sequence[Lanes], y: Sequence[Lanes]) -> Lanes:
    """Sum of products."""
    total = x[0] * y[0]
    for a, b in zip(x[1:], y[1:], strict=True):
        total = total + a * b
    return total


def _integers(value: int) -> Any:
    return ir.Constant(_INTEGERS, [ir.Constant(ir.IntType(32), value)] * LANES)


class Planes:
    """A block's numbers in memory: plane after plane of a float for each lane, 64-byte aligned."""

    def __init__(self, vectors: Vectors, address: Any) -> None:
        self.vectors, self._address = vectors, address

    def load(self, first: int, count: int) -> list[Lanes]:
        """``count`` planes from the ``first`` on."""
        v = self.vectors
        return [Lanes(v, v.load(self._address, self._offset(first + k))) for k in range(count)]

    def store(self, first: int, *values: Lanes) -> None:
        """Writes planes from the ``first`` on."""
        for k, value in enumerate(values):
            self.vectors.store(value.value, self._address, self._offset(first + k))

    @staticmethod
    def _offset(plane: int) -> Any:
        return ir.Constant(INT, plane * LANES)


def kernel_of_lanes(write: Any) -> Any:
    """Makes a numba function (camera's address, block's address) of what writes its instructions.

    Args:
        write: Takes the camera's 21 numbers, each the same in all lanes, and the block's planes.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def kernel(typing: Any, camera: Any, block: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
            v = Vectors(builder)
            floats = builder.inttoptr(arguments[0], FLOAT.as_pointer())
            numbers = [builder.load(builder.gep(floats, [ir.Constant(INT, k)])) for k in range(21)]
            write([Lanes(v, v.splat(number)) for number in numbers], Planes(v, arguments[1]))
            return context.get_dummy_value()

        return types.void(types.uintp, types.uintp), codegen

    return kernel
