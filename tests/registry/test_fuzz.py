"""Every RPC with messages that no honest client sends: typed errors, and nothing outside the store."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlmodel import col, select

from services.registry import access, keys
from services.registry.models import Job
from splatmill._status import Ending
from splatmill._transport import Authorized
from splatmill.v1 import reconstruction_pb2, task_pb2
from tests.helpers.random_messages import messages
from tests.registry.conftest import Bench

METHODS = [
    *reconstruction_pb2.DESCRIPTOR.services_by_name["ReconstructionService"].methods,
    *task_pb2.DESCRIPTOR.services_by_name["TaskService"].methods,
]
_BUGS = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)
# Where the store may have files; "splatmill.db" and its siblings are the database.
_PLACES = ("jobs/", "splatmill.db", "database_id")
_SECONDS = 0.3


@pytest.fixture
async def target(make_bench, tmp_path):
    """A registry with jobs of others, and words that mean something to it."""
    bench = await make_bench(max_images=5)
    theirs, done = await bench.create(), await bench.create(request_id="known")
    task = await bench.lease()
    words = (theirs.job_id, done.job_id, theirs.pub_key, "known", task.lease_token, "w", "0.jpg", "scene.spz")
    (tmp_path / "outside").mkdir()
    yield bench, words
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "outside"]
    assert not list((tmp_path / "outside").iterdir())
    if strays(bench.data):
        await asyncio.sleep(1)  # the registry, which still runs, was just writing its "database_id"
    assert not strays(bench.data)


def strays(data: Path) -> list[str]:
    """Files of a data folder where none may be."""
    found = (Path(folder, name) for folder, _, names in os.walk(data) for name in names)
    paths = [path.relative_to(data).as_posix() for path in found]
    return [path for path in paths if not path.startswith(_PLACES)]


async def send(bench: Bench, method: MethodDescriptor, sent: list[Any]) -> grpc.StatusCode:
    """Calls, and answers the status; a stream that goes on is good too."""
    stub = bench.jobs if method.containing_service.name == "ReconstructionService" else bench.tasks
    rpc = getattr(stub, method.name)
    try:
        if method.client_streaming:
            call = rpc()
            ending = Ending(call)
            with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
                for message in sent:
                    await call.write(message)
                await call.done_writing()
            await ending.result()
        elif method.server_streaming:
            call = rpc(sent[0])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SECONDS):
                    async for _ in call:
                        pass
            call.cancel()
        else:
            await rpc(sent[0], timeout=5)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("with_key", [False, True])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
async def test_never_a_bug_never_outside(target, method, with_key, data, monkeypatch):
    bench, words = target
    if with_key:  # now all that is known belongs to others
        monkeypatch.setattr(access, "CACHE_SECONDS", -1.0)
        bench.registry.access = access.Access(bench.registry.transact)
        _, key = await bench.registry.transact(lambda s: keys.create(s, "stranger"))
        other = Bench(bench.registry, bench.port)
        other.jobs = Authorized(other.jobs, lambda: key)
        bench, before = other, await jobs_of(bench)
    one = messages(method.input_type, words)
    count = data.draw(st.integers(0, 4)) if method.client_streaming else 1
    sent = [data.draw(one) for _ in range(count)]
    if method.name == "LeaseTask":
        for message in sent:
            message.wait.Clear()
    code = await send(bench, method, sent)
    assert code not in _BUGS, (method.name, sent)
    if with_key:
        await bench.channel.close()
        if method.containing_service.name == "ReconstructionService":
            assert (await jobs_of(bench))[: len(before)] == before, "others' jobs are as they were"


async def jobs_of(bench: Bench) -> list[tuple[str, int, str, int]]:
    """All jobs, whoever asks."""
    query = select(Job.job_id, Job.state, Job.pub_key, Job.rank).order_by(col(Job.created_at)).limit(2)
    return await bench.registry.transact(lambda s: [tuple(row) for row in s.exec(query).all()])


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
async def test_bytes_that_are_no_message(target, method):
    bench, _ = target
    path = f"/{method.containing_service.full_name}/{method.name}"
    decode = GetMessageClass(method.output_type).FromString
    for rubbish in (b"\xff" * 40, b"\x0a\xff\xff\xff\xff\x0f", b"\x08"):
        if method.client_streaming:
            call = bench.channel.stream_unary(path, response_deserializer=decode)(iter([rubbish]))
        elif method.server_streaming:
            stream = bench.channel.unary_stream(path, response_deserializer=decode)(rubbish)
            with pytest.raises(grpc.aio.AioRpcError):
                async for _ in stream:
                    pass
            continue
        else:
            call = bench.channel.unary_unary(path, response_deserializer=decode)(rubbish)
        with pytest.raises(grpc.aio.AioRpcError):
            await call
