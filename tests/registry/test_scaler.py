"""What KEDA is told."""

from __future__ import annotations

import asyncio

import pytest

from externalscaler import externalscaler_pb2 as pb
from externalscaler import externalscaler_pb2_grpc as rpc
from splatmill.errors import Reason
from splatmill.v1 import reconstruction_pb2
from tests.registry.conftest import BOTH_DATABASES, refused

pytestmark = BOTH_DATABASES


@pytest.fixture
def keda(bench):
    return rpc.ExternalScalerStub(bench.channel)


def ref(**metadata: str) -> pb.ScaledObjectRef:
    return pb.ScaledObjectRef(name="trainer", namespace="default", scalerMetadata=metadata)


async def tasks(keda, stage: str) -> int:
    (value,) = (await keda.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=ref(stage=stage)))).metricValues
    assert value.metricValueFloat == value.metricValue
    assert value.metricName == f"splatmill-{stage}-tasks"
    return value.metricValue


async def test_the_figure_counts_what_waits_and_what_is_done(bench, keda):
    assert await tasks(keda, "sfm") == 0
    assert not (await keda.IsActive(ref(stage="sfm"))).result
    await bench.create()
    await bench.create()
    assert (await tasks(keda, "sfm"), await tasks(keda, "train")) == (2, 0)
    task = await bench.lease()
    assert await tasks(keda, "sfm") == 2
    await bench.finish(task, sparse__images_dot_bin=b"model")
    assert (await tasks(keda, "sfm"), await tasks(keda, "train")) == (1, 1)
    assert (await keda.IsActive(ref(stage="train"))).result


async def test_the_target(keda):
    (spec,) = (await keda.GetMetricSpec(ref(stage="train"))).metricSpecs
    assert (spec.metricName, spec.targetSize, spec.targetSizeFloat) == ("splatmill-train-tasks", 1, 1.0)
    (spec,) = (await keda.GetMetricSpec(ref(stage="sfm", targetSize="4"))).metricSpecs
    assert spec.targetSize == 4


@pytest.mark.parametrize(
    "metadata",
    [{}, {"stage": "cook"}]
    + [{"stage": "sfm", "targetSize": text} for text in ("0", "x", "1001", "0" * 8 + "9" * 20, "1" * 5000)],
)
async def test_metadata_that_means_nothing(keda, metadata):
    with refused(Reason.INVALID_REQUEST):
        await keda.GetMetricSpec(ref(**metadata))


async def test_changes_are_pushed(bench, keda):
    stream = keda.StreamIsActive(ref(stage="sfm"))
    answers = aiter(stream)
    assert not (await anext(answers)).result
    job = await bench.create()
    async with asyncio.timeout(1):
        assert (await anext(answers)).result
    await bench.jobs.CancelJob(reconstruction_pb2.CancelJobRequest(job_id=job.job_id))
    async with asyncio.timeout(1):
        assert not (await anext(answers)).result
    stream.cancel()
