"""What makes a stage a service: its names, its options, its RPC."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from services.common.options import StageOptions
from services.common.settings import ServiceSettings
from splatmill.v1 import options_pb2, progress_pb2


@dataclass(frozen=True)
class StageServiceSpec:
    """A stage and how it is offered."""

    name: str
    """``sfm``, ``train`` or ``postproc``."""
    stage: progress_pb2.Stage.ValueType
    """The same as the protos have it."""
    function: str
    """Import path, such as ``services.sfm.stage:run``."""
    options: type[StageOptions]
    """Model of its options."""
    options_field: str
    """Its field in JobOptions."""
    settings: type[ServiceSettings]
    """Its settings."""
    port_setting: str
    """Name of the settings' field that holds its gRPC port."""
    service_name: str
    """Full name of its gRPC service."""
    method: str
    """Name of its streaming RPC."""
    response: type[Any]
    """Response message of that RPC."""
    register: Callable[[Any, Any], None]
    """The generated ``add_..._to_server``."""
    device: Callable[[Any], str] = lambda _settings: "cpu"
    """Names what it computes on, for estimates and quotas: ``cpu``, or the GPU's name."""
    calibration: str = ""
    """Import path of a function like ``function`` that measures the device; empty for none."""
    training_device: Callable[[Any, Mapping[str, float]], options_pb2.TrainingDevice] | None = None
    """Says, from the settings and what was measured, what the presets come to."""
