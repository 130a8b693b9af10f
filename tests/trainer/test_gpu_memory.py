"""The memory line, with a driver that is played."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from services.common.stage import GpuMemory
from services.trainer.gpu_memory import GpuMemoryMeter, memory_line


class PlayedNvml:
    """Two GPUs, of which CUDA sees the second only."""

    class NVMLError(Exception):
        pass

    def __init__(self):
        self.broken = False

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid != "GPU-second":
            raise self.NVMLError
        return uuid

    def nvmlDeviceGetIndex(self, handle):
        return 1

    def nvmlDeviceGetMemoryInfo(self, handle):
        if self.broken:
            raise self.NVMLError
        return SimpleNamespace(used=1473 * 2**20, total=16380 * 2**20)


@pytest.fixture
def nvml(monkeypatch):
    played = PlayedNvml()
    monkeypatch.setitem(sys.modules, "pynvml", played)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="second"), raising=False
    )
    return played


def test_the_line():
    assert memory_line(GpuMemory(0, 1473, 16380)) == "[GPU Memory] GPU 0: 1473MB / 16380MB (9.0%)"
    assert memory_line(GpuMemory(3, 0, 0)) == "[GPU Memory] GPU 3: 0MB / 0MB (0.0%)"


def test_reads_the_gpu_that_is_trained_on(nvml):
    assert GpuMemoryMeter(torch.device("cuda", 0)).read() == GpuMemory(1, 1473, 16380)


def test_silent_without_a_gpu():
    assert GpuMemoryMeter(torch.device("cpu")).read() is None


def test_silent_when_nvml_stops_answering(nvml):
    meter = GpuMemoryMeter(torch.device("cuda", 0))
    nvml.broken = True
    assert meter.read() is None
    nvml.broken = False
    assert meter.read() is None


def test_silent_without_nvml(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert GpuMemoryMeter(torch.device("cuda", 0)).read() is None
