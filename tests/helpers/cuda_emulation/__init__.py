"""The CUDA backend on a CPU: its kernels built by g++, a fiber for each thread of a block.

Slow, but the very source that NVRTC compiles on a GPU, so that machines without one can
check what the kernels compute. What they cost, and what only happens on a GPU, this cannot show.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from services.trainer.cuda import backend as cuda_backend
from services.trainer.cuda.program import SOURCES, THREADS, source

_KERNEL = re.compile(
    r'extern "C" __global__ void\s+(?:__launch_bounds__\(\w+\)\s+)?(\w+)\((.*?)\)\s*\{', re.S
)


def available() -> bool:
    """Whether there is a compiler."""
    return shutil.which("g++") is not None


def emulated_backend() -> cuda_backend.CudaBackend:
    """A backend whose tensors lie on the CPU."""
    return _EmulatedBackend()


class _EmulatedBackend(cuda_backend.CudaBackend):
    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))

    def _make_kernels(self, tile_key: str) -> Any:
        return _Kernels(tile_key)

    def _pair_capacity(self, ends: torch.Tensor, exact: bool) -> int:
        del exact  # nothing runs behind the caller's back here, so there is nothing to wait for
        return super()._pair_capacity(ends, exact=True)

    def synchronize(self) -> None:
        pass


class _Kernels:
    def __init__(self, tile_key: str) -> None:
        self._libraries = {name: _library(name, tile_key) for name in SOURCES}

    def launch(
        self, name: str, kernel: str, grid: tuple[int, ...], *arguments: Any, block: int = THREADS
    ) -> None:
        shape = (ctypes.c_int * 3)(*grid, *(1,) * (3 - len(grid)))
        getattr(self._libraries[name], f"run_{kernel}")(shape, block, *map(_argument, arguments))


def _argument(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, np.int64):
        return ctypes.c_longlong(int(value))
    return ctypes.c_float(value) if isinstance(value, float) else ctypes.c_int(value)


def _library(name: str, tile_key: str) -> ctypes.CDLL:
    text = (Path(__file__).parent / "device.hpp").read_text() + source(name)
    for kernel, parameters in _KERNEL.findall(source(name)):
        names = [re.findall(r"(\w+)\s*$", parameter)[0] for parameter in parameters.split(",")]
        declared = parameters.replace("__restrict__", "")
        text += f'\nextern "C" void run_{kernel}(const int* grid, int block, {declared}) '
        text += f"{{ run(grid, block, {kernel}, {', '.join(names)}); }}\n"
    digest = hashlib.sha256(f"{tile_key} {text}".encode()).hexdigest()[:16]
    built = Path(tempfile.gettempdir()) / f"splatmill-emulated-{name}-{digest}.so"
    if not built.exists():
        with tempfile.TemporaryDirectory() as folder:
            cpp, so = Path(folder) / "kernel.cpp", Path(folder) / "kernel.so"
            cpp.write_text(text.replace("__restrict__", ""))
            macros = [] if tile_key == "short" else [f"-DTILE_KEY={tile_key}"]
            command = ["g++", "-std=c++20", "-O1", "-shared", "-fPIC", "-w", *macros]
            subprocess.run([*command, "-o", str(so), str(cpp)], check=True)  # noqa: S603
            shutil.move(so, built)
    return ctypes.CDLL(str(built))
