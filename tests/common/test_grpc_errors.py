"""The one error type across a real gRPC connection, for every kind of call."""

from __future__ import annotations

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.common.grpc_server import Server
from splatmill._status import from_rpc_error
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import reconstruction_pb2 as pb
from splatmill.v1 import reconstruction_pb2_grpc as rpc

ERROR = SplatmillError(
    Reason.INVALID_OPTION, "iterations = 0.", "At least 1.", retryable=True, field="iterations"
)


class Failing(rpc.ReconstructionServiceServicer):
    """Fails in every way."""

    async def GetJob(self, request, context):
        if request.job_id == "bug":
            raise KeyError("secret detail")
        raise ERROR

    async def WatchJob(self, request, context):
        yield pb.WatchJobResponse()
        raise ERROR

    async def CreateJob(self, request_iterator, context):
        async for _ in request_iterator:
            raise ERROR


@pytest.fixture
async def channel():
    server = Server()
    server.add(
        "splatmill.v1.ReconstructionService",
        lambda s: rpc.add_ReconstructionServiceServicer_to_server(Failing(), s),
    )
    port = await server.start("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as opened:
        yield opened
    await server.stop(0)


def same(error: SplatmillError) -> bool:
    fields = ("reason", "message", "remedy", "retryable", "field")
    return all(getattr(error, name) == getattr(ERROR, name) for name in fields)


async def test_unary(channel):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rpc.ReconstructionServiceStub(channel).GetJob(pb.GetJobRequest())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert same(from_rpc_error(caught.value))


async def test_server_stream_after_a_message(channel):
    received = 0
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in rpc.ReconstructionServiceStub(channel).WatchJob(pb.WatchJobRequest()):
            received += 1
    assert received == 1
    assert same(from_rpc_error(caught.value))


async def test_client_stream(channel):
    async def requests():
        while True:
            yield pb.CreateJobRequest()

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rpc.ReconstructionServiceStub(channel).CreateJob(requests())
    assert same(from_rpc_error(caught.value))


async def test_a_bug_keeps_its_details_to_itself(channel):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rpc.ReconstructionServiceStub(channel).GetJob(pb.GetJobRequest(job_id="bug"))
    error = from_rpc_error(caught.value)
    assert error.reason is Reason.INTERNAL
    assert "secret" not in error.message


async def test_nobody_there():
    async with grpc.aio.insecure_channel("127.0.0.1:1") as nowhere:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rpc.ReconstructionServiceStub(nowhere).GetJob(pb.GetJobRequest(), timeout=5)
    error = from_rpc_error(caught.value)
    assert error.reason is Reason.UNAVAILABLE
    assert error.retryable


async def test_health_and_reflection(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", "splatmill.v1.ReconstructionService"):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    requests = [reflection_pb2.ServerReflectionRequest(list_services="")]
    stream = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter(requests))
    names = [s.name async for answer in stream for s in answer.list_services_response.service]
    assert "splatmill.v1.ReconstructionService" in names
    assert "grpc.health.v1.Health" in names
