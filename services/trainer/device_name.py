"""What the trainer computes on, without loading torch: the service's own process does no sums."""

from __future__ import annotations

import platform
from pathlib import Path

from services.trainer.settings import TrainerSettings


def device_name(settings: TrainerSettings) -> str:
    """``cpu``, or the name of the GPU that the driver tells of, such as ``NVIDIA H100``."""
    if settings.trainer_device == "cpu":
        return "cpu"
    try:
        import pynvml  # noqa: PLC0415

        pynvml.nvmlInit()
        try:
            name = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))
        finally:
            pynvml.nvmlShutdown()
    except Exception:  # a missing library and a missing driver have no common type
        return "cpu"
    return name.decode() if isinstance(name, bytes) else str(name)


def cpu_name() -> str:
    """What the CPU calls itself, such as ``AMD EPYC``."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
