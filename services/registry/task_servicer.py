"""TaskService over the registry's core."""

from __future__ import annotations

import math
from typing import Any

from services.registry.core import Registry
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import options_pb2, progress_pb2, task_pb2, task_pb2_grpc

_MAX_WAIT_SECONDS = 60.0
_MAX_WORKER_ID = 128
_MAX_DEVICE = 100
_MAX_PRESETS = 16


class TaskServicer(task_pb2_grpc.TaskServiceServicer):
    """Translates between messages and the core."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def LeaseTask(self, request: task_pb2.LeaseTaskRequest, context: Any) -> task_pb2.LeaseTaskResponse:
        """See the proto."""
        self._registry.access.check_worker(context)
        known = set(progress_pb2.Stage.values()) - {progress_pb2.STAGE_UNSPECIFIED}
        if not request.stages or not set(request.stages) <= known:
            raise SplatmillError(
                Reason.INVALID_REQUEST,
                "A worker must name the stages it can do.",
                "Set stages.",
                field="stages",
            )
        if not request.worker_id or len(request.worker_id) > _MAX_WORKER_ID:
            raise SplatmillError(
                Reason.INVALID_REQUEST,
                "A worker must have an id.",
                f"At most {_MAX_WORKER_ID} characters.",
                field="worker_id",
            )
        if len(request.device) > _MAX_DEVICE:
            raise SplatmillError(
                Reason.INVALID_REQUEST, "The device's name is too long.",
                f"At most {_MAX_DEVICE} characters.", field="device",
            )  # fmt: skip
        if not _is_sound(request.training_device):
            raise SplatmillError(
                Reason.INVALID_REQUEST, "What is said of the device makes no sense.",
                "Names and lists have a limit, and figures are numbers from 0 up.", field="training_device",
            )  # fmt: skip
        wait = min(_MAX_WAIT_SECONDS, max(0.0, request.wait.seconds + request.wait.nanos * 1e-9))
        return task_pb2.LeaseTaskResponse(task=await self._registry.lease(request, wait))

    async def HeartbeatTask(
        self, request: task_pb2.HeartbeatTaskRequest, context: Any
    ) -> task_pb2.HeartbeatTaskResponse:
        """See the proto."""
        self._registry.access.check_worker(context)
        return task_pb2.HeartbeatTaskResponse(cancelled=await self._registry.heartbeat(request))

    async def CompleteTask(
        self, request: task_pb2.CompleteTaskRequest, context: Any
    ) -> task_pb2.CompleteTaskResponse:
        """See the proto."""
        self._registry.access.check_worker(context)
        await self._registry.complete(request)
        return task_pb2.CompleteTaskResponse()

    async def FailTask(self, request: task_pb2.FailTaskRequest, context: Any) -> task_pb2.FailTaskResponse:
        """See the proto."""
        self._registry.access.check_worker(context)
        return task_pb2.FailTaskResponse(will_retry=await self._registry.fail(request))

    async def ReleaseTask(
        self, request: task_pb2.ReleaseTaskRequest, context: Any
    ) -> task_pb2.ReleaseTaskResponse:
        """See the proto."""
        self._registry.access.check_worker(context)
        await self._registry.release(request.lease_token)
        return task_pb2.ReleaseTaskResponse()


def _is_sound(device: options_pb2.TrainingDevice) -> bool:
    """Whether it can be kept and shown."""
    if max(len(device.device), len(device.name)) > _MAX_DEVICE or len(device.presets) > _MAX_PRESETS:
        return False
    figures = [device.free_memory_bytes]
    presets, strategies = options_pb2.Preset.values()[1:], options_pb2.Strategy.values()
    for each in device.presets:
        if each.preset not in presets or each.strategy not in strategies:
            return False
        figures += [each.iterations, each.max_gaussians, each.train_image_size, each.memory_bytes]
    return min(figures) >= 0 and all(0 <= each.seconds < math.inf for each in device.presets)
