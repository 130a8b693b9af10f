"""A stage's own RPC: no registry, checked folders, one run at a time, nothing left of a broken one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio
import pytest
from fake_registry import alive, spec, until

from services.common.grpc_server import Server
from services.common.settings import ServiceSettings
from services.common.stage_rpc import StageServicer
from splatmill._status import from_rpc_error
from splatmill.errors import Reason
from splatmill.v1 import sfm_pb2, sfm_pb2_grpc


@asynccontextmanager
async def service(bench, function: str) -> AsyncIterator[sfm_pb2_grpc.SfmServiceAsyncStub]:
    server = Server()
    servicer = StageServicer(spec(function), ServiceSettings(), bench.store, bench.busy)
    server.add(
        "splatmill.v1.SfmService", lambda s: sfm_pb2_grpc.add_SfmServiceServicer_to_server(servicer, s)
    )
    port = await server.start("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield sfm_pb2_grpc.SfmServiceStub(channel)
    await server.stop(0)


def request(
    input_dir: str = "jobs/j/upload", output_dir: str = "mine/out", **options
) -> sfm_pb2.RunSfmRequest:
    return sfm_pb2.RunSfmRequest(input_dir=input_dir, output_dir=output_dir, options=options)


async def test_progress_then_result(bench):
    async with service(bench, "good") as stub:
        answers = [answer async for answer in stub.RunSfm(request())]
    assert [a.WhichOneof("payload") for a in answers] == ["progress"] * 5 + ["result"]
    assert dict(answers[-1].result.metrics) == {"answer": 42.0}
    assert (bench.store.root / "mine/out/sub/answer.txt").read_text() == "42"


@pytest.mark.parametrize(
    ("bad", "reason", "field"),
    [
        (request(input_dir="../.."), Reason.INVALID_REQUEST, "input_dir"),
        (request(input_dir="/etc"), Reason.INVALID_REQUEST, "input_dir"),
        (request(input_dir=""), Reason.INVALID_REQUEST, "input_dir"),
        (request(input_dir="none"), Reason.INPUT_NOT_FOUND, "input_dir"),
        (request(output_dir="../out"), Reason.INVALID_REQUEST, "output_dir"),
        (request(output_dir="link/out"), Reason.INVALID_REQUEST, "output_dir"),
        (request(output_dir="full"), Reason.INVALID_REQUEST, "output_dir"),
        (request(output_dir="full/file"), Reason.INVALID_REQUEST, "output_dir"),
        (request(output_dir="jobs/j/upload"), Reason.INVALID_REQUEST, "output_dir"),
        (request(output_dir="jobs/j/upload/out"), Reason.INVALID_REQUEST, "output_dir"),
        (request(max_features=1), Reason.INVALID_OPTION, "max_features"),
    ],
)
async def test_bad_requests_are_refused_and_leave_nothing(bench, tmp_path, bad, reason, field):
    (bench.store.root / "link").symlink_to(tmp_path)
    (bench.store.root / "full").mkdir()
    (bench.store.root / "full/file").write_text("mine")
    before = sorted(bench.store.root.rglob("*"))
    async with service(bench, "good") as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.RunSfm(bad).read()
    error = from_rpc_error(caught.value)
    assert (error.reason, error.field) == (reason, field)
    assert sorted(bench.store.root.rglob("*")) == before


async def test_one_run_at_a_time(bench):
    async with service(bench, "endless") as stub:
        first = stub.RunSfm(request())
        await first.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.RunSfm(request(output_dir="other")).read()
        error = from_rpc_error(caught.value)
        assert error.reason is Reason.BUSY
        assert error.retryable
        first.cancel()
        await until(lambda: not bench.busy.locked())


async def test_a_worker_waits_while_the_own_rpc_runs(bench):
    bench.offer()
    async with service(bench, "endless") as stub:
        call = stub.RunSfm(request())
        await call.read()
        worker = bench.work("good")
        await asyncio.sleep(0.5)
        assert not bench.tasks.calls
        call.cancel()
        await bench.tasks.until("complete")
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)


async def test_cancelling_ends_the_work_and_leaves_nothing(bench):
    async with service(bench, "endless") as stub:
        call = stub.RunSfm(request())
        pids = [int(pid) for pid in (await call.read()).progress.log_lines[0].split()]
        assert (bench.store.root / "mine/out/partial.txt").exists()
        call.cancel()
        await until(lambda: not bench.busy.locked())
    assert not (bench.store.root / "mine").exists()
    await until(lambda: not any(map(alive, pids)))


async def test_a_failure_leaves_the_folder_as_it_was(bench):
    (bench.store.root / "given").mkdir()
    async with service(bench, "typed_error") as stub:
        for output_dir in ("given", "given/a/b"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                [answer async for answer in stub.RunSfm(request(output_dir=output_dir))]
            assert from_rpc_error(caught.value).reason is Reason.NO_OVERLAP
            assert list((bench.store.root / "given").iterdir()) == []
