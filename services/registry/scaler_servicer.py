"""How much work there is, for KEDA."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy import func
from sqlmodel import Session, col, select

from externalscaler import externalscaler_pb2 as pb
from externalscaler import externalscaler_pb2_grpc
from services.registry.core import Registry
from services.registry.models import Task
from services.registry.notify import TASKS
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import progress_pb2, reconstruction_pb2

_STAGES = {
    "sfm": progress_pb2.STAGE_SFM,
    "train": progress_pb2.STAGE_TRAIN,
    "postproc": progress_pb2.STAGE_POSTPROC,
}
_OPEN = (reconstruction_pb2.TASK_STATE_QUEUED, reconstruction_pb2.TASK_STATE_LEASED)
_MAX_TARGET, _MAX_DIGITS = 1000, 4


def open_tasks(session: Session, stage: int) -> int:
    """Tasks of a stage that wait, or are being worked on."""
    return session.exec(
        select(func.count()).where(Task.stage == stage, col(Task.state).in_(_OPEN))
    ).one()  # fmt: skip


class ScalerServicer(externalscaler_pb2_grpc.ExternalScalerServicer):
    """Answers KEDA. It tells numbers only, so no key is asked for."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def IsActive(self, request: pb.ScaledObjectRef, context: Any) -> pb.IsActiveResponse:
        """See the proto."""
        return pb.IsActiveResponse(result=await self._count(_stage(request)) > 0)

    async def StreamIsActive(self, request: pb.ScaledObjectRef, context: Any) -> AsyncIterator[Any]:
        """See the proto."""
        stage = _stage(request)
        told: bool | None = None
        with self._registry.news.subscribe(TASKS) as news:
            while not self._registry.news.closed:
                active = await self._count(stage) > 0
                if active != told:
                    yield pb.IsActiveResponse(result=active)
                    told = active
                await news.wait(self._registry.news.poll_seconds)

    async def GetMetricSpec(self, request: pb.ScaledObjectRef, context: Any) -> pb.GetMetricSpecResponse:
        """See the proto."""
        _stage(request)
        target = _target(request)
        spec = pb.MetricSpec(metricName=_name(request), targetSize=target, targetSizeFloat=target)
        return pb.GetMetricSpecResponse(metricSpecs=[spec])

    async def GetMetrics(self, request: pb.GetMetricsRequest, context: Any) -> pb.GetMetricsResponse:
        """See the proto."""
        count = await self._count(_stage(request.scaledObjectRef))
        name = request.metricName or _name(request.scaledObjectRef)
        value = pb.MetricValue(metricName=name, metricValue=count, metricValueFloat=count)
        return pb.GetMetricsResponse(metricValues=[value])

    async def _count(self, stage: int) -> int:
        return await self._registry.transact(lambda session: open_tasks(session, stage))


def _stage(ref: pb.ScaledObjectRef) -> int:
    name = ref.scalerMetadata.get("stage", "")
    if name not in _STAGES:
        raise SplatmillError(
            Reason.INVALID_REQUEST, f"The metadata names no stage: {name[:80]!r}.",
            f"Set stage to one of {', '.join(_STAGES)}.", field="scalerMetadata.stage",
        )  # fmt: skip
    return _STAGES[name]


def _target(ref: pb.ScaledObjectRef) -> int:
    text = ref.scalerMetadata.get("targetSize", "1")
    if not (text.isdecimal() and len(text) <= _MAX_DIGITS and 1 <= int(text) <= _MAX_TARGET):
        raise SplatmillError(
            Reason.INVALID_REQUEST, f"targetSize is {text[:20]!r}.",
            f"Set it to a number from 1 to {_MAX_TARGET}.", field="scalerMetadata.targetSize",
        )  # fmt: skip
    return int(text)


def _name(ref: pb.ScaledObjectRef) -> str:
    return f"splatmill-{ref.scalerMetadata.get('stage', '')}-tasks"
