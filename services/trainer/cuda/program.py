"""Compiles the kernels for the device at hand and launches them on torch's stream.

NVRTC needs no compiler and no CUDA toolkit on the machine. torch owns the memory and the
stream; cuda.core only compiles and launches.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import resources
from typing import Any

import numpy as np
import torch

SOURCES = ("projection", "binning", "raster", "loss", "exposure", "adam", "markov")
THREADS = 256
_MOST_CONFIGS = 1024


class _TorchStream:
    """torch's current stream in the form that cuda.core asks for."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def __cuda_stream__(self) -> tuple[int, int]:
        """Version of the protocol and the stream's handle."""
        return (0, self._handle)


@functools.cache
def source(name: str) -> str:
    """A file of kernels with what all of them share before it."""
    folder = resources.files("services.trainer.cuda") / "kernels"
    common = (folder / "common.cuh").read_text().replace("#pragma once", "")
    return common + (folder / f"{name}.cu").read_text()


class Kernels:
    """All kernels, compiled for one device.

    Args:
        device: The CUDA device.
        tile_key: C type of a tile's number, ``short`` up to 32,766 tiles, else ``int``.
    """

    def __init__(self, device: torch.device, tile_key: str = "short") -> None:
        # Only here: it asks for the driver's bindings, which machines without a GPU need not have.
        from cuda import core  # noqa: PLC0415

        self._core = core
        self._device = core.Device(device.index or 0)
        self._device.set_current()
        define = None if tile_key == "short" else [("TILE_KEY", tile_key)]
        options = core.ProgramOptions(arch=f"sm_{self._device.arch}", std="c++17", define_macro=define)
        self._modules = {
            name: core.Program(source(name), "c++", options).compile("cubin") for name in SOURCES
        }
        self._kernels: dict[str, Any] = {}
        self._streams: dict[int, Any] = {}
        self._configs: dict[tuple[tuple[int, ...], int], Any] = {}
        self._index = self._device.device_id

    def launch(
        self, name: str, kernel: str, grid: tuple[int, ...], *arguments: Any, block: int = THREADS
    ) -> None:
        """Queues a kernel on torch's current stream.

        Args:
            name: File that holds it.
            kernel: Its name.
            grid: Blocks in x, y, z.
            arguments: Tensors (by address), ints (as C int) and floats (as C float), or
                numpy scalars for other types.
            block: Threads a block.
        """
        compiled = self._kernels.get(kernel)
        if compiled is None:
            compiled = self._kernels[kernel] = self._modules[name].get_kernel(kernel)
        # A step makes a dozen launches, and the host must stay ahead of the device.
        handle = torch._C._cuda_getCurrentRawStream(self._index)
        stream = self._streams.get(handle)
        if stream is None:
            stream = self._streams[handle] = self._device.create_stream(_TorchStream(handle))
        config = self._configs.get((grid, block))
        if config is None:
            if len(self._configs) >= _MOST_CONFIGS:
                self._configs.clear()
            config = self._configs[grid, block] = self._core.LaunchConfig(grid=grid, block=block)
        values = [_TO_C[type(value)](value) if type(value) in _TO_C else value for value in arguments]
        self._core.launch(stream, config, compiled, *values)


_TO_C: dict[type, Callable[[Any], Any]] = {
    torch.Tensor: torch.Tensor.data_ptr,
    int: np.int32,
    float: np.float32,
    bool: np.int32,
}
