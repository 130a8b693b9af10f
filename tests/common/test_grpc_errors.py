"""The one error type across a real gRPC connection, for every kind of call."""

from __future__ import annotations

import asyncio
import logging
import re

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.common.grpc_server import Server
from splatmill._status import Ending, from_rpc_error
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import reconstruction_pb2 as pb
from splatmill.v1 import reconstruction_pb2_grpc as rpc
from splatmill.v1 import task_pb2, task_pb2_grpc

ERROR = SplatmillError(
    Reason.INVALID_OPTION, "iterations = 0.", "At least 1.", retryable=True, field="iterations"
)


class Failing(rpc.ReconstructionServiceServicer):
    """Fails in every way."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def GetJob(self, request, context):
        if request.job_id == "bug":
            raise KeyError("secret detail")
        if request.job_id == "long":
            raise SplatmillError(Reason.BAD_FILENAME, "ü" * 100_000, "Ü" * 100_000, field="é" * 100_000)
        if request.job_id == "abort":
            await context.abort(grpc.StatusCode.DATA_LOSS, "as it is")
        raise ERROR

    async def WatchJob(self, request, context):
        yield pb.WatchJobResponse()
        if request.job_id == "bug":
            raise KeyError("secret detail")
        if request.job_id == "endless":
            try:
                while True:
                    yield pb.WatchJobResponse()
            finally:
                self.ended.set()
        raise ERROR

    async def CreateJob(self, request_iterator, context):
        async for _ in request_iterator:
            raise ERROR


@pytest.fixture
async def servicer():
    return Failing()


@pytest.fixture
async def channel(servicer):
    server = Server()
    server.add(
        "splatmill.v1.ReconstructionService",
        lambda s: rpc.add_ReconstructionServiceServicer_to_server(servicer, s),
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
        await Ending(rpc.ReconstructionServiceStub(channel).CreateJob(requests())).result()
    assert same(from_rpc_error(caught.value))


@pytest.mark.parametrize("kind", ["unary", "stream"])
async def test_a_bug_keeps_its_details_to_the_log(channel, caplog, kind):
    stub = rpc.ReconstructionServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught, caplog.at_level(logging.ERROR):
        if kind == "unary":
            await stub.GetJob(pb.GetJobRequest(job_id="bug"))
        else:
            [answer async for answer in stub.WatchJob(pb.WatchJobRequest(job_id="bug"))]
    error = from_rpc_error(caught.value)
    assert error.reason is Reason.INTERNAL
    assert "secret" not in error.message
    number = re.search(r"error (\w{8})", error.message)
    assert number is not None
    (record,) = (r for r in caplog.records if number[1] in r.getMessage())
    assert "secret detail" in str(record.exc_info[1])


async def test_long_texts_are_cut_to_fit_the_metadata(channel):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rpc.ReconstructionServiceStub(channel).GetJob(pb.GetJobRequest(job_id="long"))
    error = from_rpc_error(caught.value)
    assert error.reason is Reason.BAD_FILENAME
    assert error.message.startswith("üüü")
    assert error.message.endswith("ü…")
    assert error.remedy
    assert error.field


async def test_an_abort_of_the_handler_passes(channel):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rpc.ReconstructionServiceStub(channel).GetJob(pb.GetJobRequest(job_id="abort"))
    assert caught.value.code() is grpc.StatusCode.DATA_LOSS
    assert caught.value.details() == "as it is"


async def test_a_cancelled_stream_cleans_up(channel, servicer):
    call = rpc.ReconstructionServiceStub(channel).WatchJob(pb.WatchJobRequest(job_id="endless"))
    await call.read()
    call.cancel()
    await asyncio.wait_for(servicer.ended.wait(), 5)


async def test_an_unknown_call(channel):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await task_pb2_grpc.TaskServiceStub(channel).LeaseTask(task_pb2.LeaseTaskRequest())
    assert "right service" in from_rpc_error(caught.value).remedy


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
    watch = health.Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()
    requests = [reflection_pb2.ServerReflectionRequest(list_services="")]
    stream = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter(requests))
    names = [s.name async for answer in stream for s in answer.list_services_response.service]
    assert "splatmill.v1.ReconstructionService" in names
    assert "grpc.health.v1.Health" in names


async def test_stopping_tells_those_who_watch_the_health():
    server = Server()
    port = await server.start("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as opened:
        watch = health_pb2_grpc.HealthStub(opened).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(server.stop(1))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        await stopping


async def test_a_port_in_use():
    server, other = Server(), Server()
    port = await server.start("127.0.0.1", 0)
    with pytest.raises(SplatmillError) as caught:
        await other.start("127.0.0.1", port)
    assert str(port) in caught.value.message
    await server.stop(0)
