"""How much memory the GPU has in use, from the driver through NVML."""

from __future__ import annotations

import logging
from typing import Any

import torch

from services.common.stage import GpuMemory

log = logging.getLogger(__name__)

_MIB = 2**20


class GpuMemoryMeter:
    """Reads the memory in use of one GPU, by whatever process. Answers None without NVML.

    Args:
        device: The device trained on; anything but CUDA has no GPU memory.
    """

    def __init__(self, device: torch.device) -> None:
        self._handle: Any = None
        if device.type != "cuda":
            return
        try:
            import pynvml  # noqa: PLC0415

            pynvml.nvmlInit()
            # CUDA numbers the GPUs it may see, NVML all: only the identity is common to both.
            uuid = str(torch.cuda.get_device_properties(device).uuid)
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}")
            self._index = int(pynvml.nvmlDeviceGetIndex(self._handle))
            self._nvml = pynvml
        except Exception:  # a missing library and a refusing driver have no common type
            self._handle = None
            log.info("no figures of GPU memory: NVML does not answer", exc_info=True)

    def read(self) -> GpuMemory | None:
        """Memory in use now; None where there is no GPU or it does not tell."""
        if self._handle is None:
            return None
        try:
            info = self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
        except self._nvml.NVMLError:
            log.info("no more figures of GPU memory: NVML does not answer", exc_info=True)
            self._handle = None
            return None
        return GpuMemory(self._index, round(info.used / _MIB), round(info.total / _MIB))


def memory_line(memory: GpuMemory) -> str:
    """The line for the log, such as ``[GPU Memory] GPU 0: 1473MB / 16380MB (9.0%)``."""
    share = 100 * memory.used_mib / memory.total_mib if memory.total_mib else 0.0
    return f"[GPU Memory] GPU {memory.index}: {memory.used_mib}MB / {memory.total_mib}MB ({share:.1f}%)"
