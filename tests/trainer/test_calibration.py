"""The device measured: what is fitted to steps, and that real steps can be measured."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from services.common.child_process import run_in_child
from services.common.options import Preset, TrainingOptions
from services.common.stage import StageContext, StageResult
from services.trainer import calibration, presets
from services.trainer.config import resolve
from services.trainer.estimate import DeviceSpeed
from services.trainer.settings import TrainerSettings
from splatmill.v1 import options_pb2
from tests.helpers.slow_backend import SlowBackend


async def metrics(folder: Path) -> dict[str, float]:
    """Measured as the service does it: in a process of its own, whose age and memory count."""
    function, options, settings = "services.trainer.calibration:run", TrainingOptions(), TrainerSettings()
    run = run_in_child("trainer", function, folder, folder, options, StageContext(folder), settings)
    messages = [message async for message in run]
    assert isinstance(messages[-1], StageResult)
    return dict(messages[-1].metrics)


@pytest.mark.parametrize("law", [(2e-3, 5e-8, 4e-7), (6e-4, 3e-10, 3.4e-9), (0.0, 5e-8, 4e-7)])
def test_the_law_is_found_again(monkeypatch, law):
    config = resolve(TrainingOptions(), TrainerSettings(), "cpu")

    class Sized:
        def __init__(self, width, height, count):
            self.seconds = law[0] + law[1] * width * height + law[2] * count

    monkeypatch.setattr(calibration, "scene", lambda backend, config, *size: Sized(*size))
    monkeypatch.setattr(calibration, "_seconds", lambda backend, trainer, steps: steps * trainer.seconds)
    sizes = [(160, 120, 10_000), (160, 120, 40_000), (640, 480, 10_000), (640, 480, 40_000)]
    assert calibration.step_times(SlowBackend(), config, sizes) == pytest.approx(law, rel=1e-6, abs=1e-15)


def test_scenes_of_chance_are_trained(monkeypatch):
    config = resolve(TrainingOptions(), TrainerSettings(), "cpu")
    trainer = calibration.scene(SlowBackend(), config, 48, 32, 60)
    assert trainer.gaussians.count == 60
    losses = [float(trainer.step()) for _ in range(3)]
    assert all(0 < loss < 2 for loss in losses)
    assert trainer.gaussians.count == 60  # nothing is added or removed, so that steps compare
    assert trainer.schedule.degree(3) == config.sh_degree  # as for most of a run


async def test_a_cpu_measures_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("SPLATMILL_TRAINER_DEVICE", "cpu")
    began = time.monotonic()
    speed = DeviceSpeed.from_metrics(await metrics(tmp_path))
    assert time.monotonic() - began < 60
    assert not any(tmp_path.iterdir())
    assert speed.device_type == "cpu"
    assert speed.step_seconds >= 0
    # Between a machine ten times as fast as today's two cores and one twenty times as slow.
    assert 5e-9 < speed.seconds_per_pixel + speed.seconds_per_gaussian * 40_000 / (640 * 480) < 3e-6
    assert 0.1 < speed.start_seconds < 120
    assert 1e8 < speed.base_bytes < 4e9
    assert speed.free_bytes > 0
    message = presets.training_device(TrainerSettings(), speed.metrics())
    assert message.device == "cpu"
    assert "core" in message.name
    assert [each.preset for each in message.presets] == [
        options_pb2.PRESET_DRAFT, options_pb2.PRESET_STANDARD, options_pb2.PRESET_HIGH,
    ]  # fmt: skip


def test_presets_are_described_with_the_settings(monkeypatch):
    monkeypatch.setenv("SPLATMILL_TRAINER_DEVICE", "cpu")
    monkeypatch.setenv("SPLATMILL_TRAINING_ITERATIONS", "700")
    speed = DeviceSpeed(0.0, 0.0, 5e-8, 5e-7, 3.0, 6e-9, 4e8, 2.0**34)
    message = presets.training_device(TrainerSettings(), speed.metrics())
    draft, standard, high = message.presets
    assert (draft.iterations, standard.iterations, high.iterations) == (1000, 700, 7500)
    assert (draft.train_image_size, standard.train_image_size) == (480, 640)
    assert standard.strategy == options_pb2.STRATEGY_DEFAULT
    assert message.free_memory_bytes == 2**34
    assert len(message.presets) == len(Preset)
    on_gpu = DeviceSpeed(1.0, 6e-4, 3e-10, 3.4e-9, 4.0, 3e-9, 0.0, 0.0)
    message = presets.training_device(TrainerSettings(), on_gpu.metrics())
    assert not message.HasField("free_memory_bytes")
    assert message.presets[2].strategy == options_pb2.STRATEGY_MCMC
    assert message.presets[2].train_image_size == 0
