"""The functions that the CPU kernels write themselves, against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from services.trainer.cpu.lanes import absolute, ceil, exp, kernel_of_lanes, log, sqrt
from services.trainer.cpu.vector_ir import LANES

FUNCTIONS = {
    "exp": (exp, np.exp, np.linspace(-80, 80, 160)),
    "log": (log, np.log, np.geomspace(1e-30, 1e30, 160)),
    "sqrt": (sqrt, np.sqrt, np.geomspace(1e-30, 1e30, 160)),
    "absolute": (absolute, np.abs, np.linspace(-3, 3, 160)),
    "ceil": (ceil, np.ceil, np.linspace(-3, 3, 160)),
}


def compiled(write):
    kernel = kernel_of_lanes(write)

    @njit
    def call(camera, block):
        kernel(camera.ctypes.data, block.ctypes.data)

    return call


def aligned(planes: int) -> np.ndarray:
    raw = np.zeros(planes * LANES + 16, np.float32)
    start = -raw.ctypes.data % 64 // 4
    return raw[start : start + planes * LANES].reshape(planes, LANES)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_lanes(name):
    function, expected, inputs = FUNCTIONS[name]
    call = compiled(lambda camera, block: block.store(1, function(block.load(0, 1)[0])))
    block, camera = aligned(2), np.zeros(21, np.float32)
    for part in inputs.astype(np.float32).reshape(-1, LANES):
        block[0] = part
        call(camera, block)
        assert np.allclose(block[1], expected(part.astype(np.float64)), rtol=4e-7, atol=1e-7)


def test_what_is_out_of_bounds_stays_there():
    def write(camera, block):
        (x,) = block.load(0, 1)
        block.store(1, exp(x), (x > 1.0).choose(camera[3], 0.0))

    call = compiled(write)
    block, camera = aligned(3), np.arange(21, dtype=np.float32)
    block[0, :4] = np.nan, np.inf, -np.inf, 2.0
    call(camera, block)
    assert (block[1, :2] > 1e38).all(), "NaN is no small size"
    assert 0 < block[1, 2] < 1e-37
    assert block[2, :5].tolist() == [0, 3, 0, 3, 0]
