"""Compiles the kernels for the device at hand and launches them on torch's stream.

NVRTC needs no compiler and no CUDA toolkit on the machine. torch owns the memory and the
stream; cuda.core only compiles and launches.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

import numpy as np
import torch
from cuda.core import Device, LaunchConfig, Program, ProgramOptions, launch

_SOURCES = ("projection", "binning", "raster", "loss", "adam")
_THREADS = 256


class _TorchStream:
    """torch's current stream in the form that cuda.core asks for."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def __cuda_stream__(self) -> tuple[int, int]:
        """Version of the protocol and the stream's handle."""
        return (0, self._handle)


@functools.cache
def _source(name: str) -> str:
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
        self._device = Device(device.index or 0)
        self._device.set_current()
        define = None if tile_key == "short" else [("TILE_KEY", tile_key)]
        options = ProgramOptions(arch=f"sm_{self._device.arch}", std="c++17", define_macro=define)
        self._modules = {name: Program(_source(name), "c++", options).compile("cubin") for name in _SOURCES}
        self._kernels: dict[str, Any] = {}
        self._streams: dict[int, Any] = {}
        self._torch_device = device

    def launch(
        self, source: str, kernel: str, grid: tuple[int, ...], *arguments: Any, block: int = _THREADS
    ) -> None:
        """Queues a kernel on torch's current stream.

        Args:
            source: File that holds it.
            kernel: Its name.
            grid: Blocks in x, y, z.
            arguments: Tensors (by address), ints (as C int) and floats (as C float), or
                numpy scalars for other types.
            block: Threads a block.
        """
        compiled = self._kernels.get(kernel)
        if compiled is None:
            compiled = self._kernels[kernel] = self._modules[source].get_kernel(kernel)
        handle = torch.cuda.current_stream(self._torch_device).cuda_stream
        stream = self._streams.get(handle)
        if stream is None:
            stream = self._streams[handle] = self._device.create_stream(_TorchStream(handle))
        launch(stream, LaunchConfig(grid=grid, block=block), compiled, *map(_argument, arguments))


def _argument(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.data_ptr()
    if isinstance(value, int):
        return np.int32(value)
    if isinstance(value, float):
        return np.float32(value)
    return value
