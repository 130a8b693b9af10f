"""What a trainer says of itself: the presets on its device, for people to choose from. No torch."""

from __future__ import annotations

from collections.abc import Mapping

from services.common import option_codec
from services.common.cores import usable_cores
from services.common.options import Preset, TrainingOptions
from services.trainer.config import resolve
from services.trainer.device_name import cpu_name, device_name
from services.trainer.estimate import Capture, DeviceSpeed, expect, fitted
from services.trainer.settings import TrainerSettings
from splatmill.v1 import options_pb2

_NAME_LENGTH = 100


def training_device(settings: TrainerSettings, metrics: Mapping[str, float]) -> options_pb2.TrainingDevice:
    """The device with an estimate for each preset.

    Args:
        settings: The service's, which presets build on.
        metrics: What ``services.trainer.calibration`` has measured.
    """
    speed = DeviceSpeed.from_metrics(metrics)
    device = device_name(settings)
    cores = usable_cores()
    name = f"{cpu_name()}, {cores} core{'' if cores == 1 else 's'}" if device == "cpu" else device
    message = options_pb2.TrainingDevice(device=device, name=name[:_NAME_LENGTH])
    if speed.free_bytes:
        message.free_memory_bytes = int(speed.free_bytes)
    for preset in Preset:
        message.presets.append(_estimate(preset, settings, speed))
    return message


def _estimate(preset: Preset, settings: TrainerSettings, speed: DeviceSpeed) -> options_pb2.PresetEstimate:
    capture = Capture()
    options = TrainingOptions.model_validate({"preset": preset})
    config = fitted(resolve(options, settings, speed.device_type), speed, capture)
    named = options_pb2.TrainingOptions()
    option_codec.to_proto(options.model_copy(update={"strategy": config.strategy}), named)
    expected = expect(config, speed, capture)
    return options_pb2.PresetEstimate(
        preset=named.preset,
        iterations=config.iterations,
        max_gaussians=config.max_gaussians,
        train_image_size=config.train_image_size or 0,
        strategy=named.strategy,
        seconds=expected.seconds,
        memory_bytes=expected.memory_bytes,
    )
