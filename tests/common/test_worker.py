"""The worker loop against a task service that speaks the real protocol over a real connection."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import grpc.aio
import pytest

from services.common import child_process, lease, worker
from services.common.grpc_server import Server
from services.common.options import SfmOptions
from services.common.settings import ServiceSettings
from services.common.stage_rpc import StageServicer
from services.common.stage_spec import StageServiceSpec
from services.common.store import LocalStore
from splatmill._status import from_rpc_error
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import progress_pb2, sfm_pb2, sfm_pb2_grpc, task_pb2, task_pb2_grpc

HERE = Path(__file__).parent


class Tasks(task_pb2_grpc.TaskServiceServicer):
    """Hands out one task and notes all that is said of it."""

    def __init__(self) -> None:
        self.waiting: list[task_pb2.LeasedTask] = []
        self.calls: list[tuple[str, object]] = []
        self.lines: list[str] = []
        self.lost = False
        self.cancelled = False
        self.slow = 0.0
        self.errors: dict[str, list[Exception]] = {}
        self.said = asyncio.Event()

    def note(self, name: str, request: object) -> None:
        if self.errors.get(name):
            raise self.errors[name].pop()
        if self.lost:
            raise SplatmillError(Reason.LEASE_LOST, "The lease is lost.")
        self.calls.append((name, request))
        self.said.set()

    async def LeaseTask(self, request, context):
        await asyncio.sleep(0.02)
        if self.waiting:
            return task_pb2.LeaseTaskResponse(task=self.waiting.pop())
        await asyncio.sleep(0.2)
        return task_pb2.LeaseTaskResponse()

    async def HeartbeatTask(self, request, context):
        self.note("heartbeat", request)
        await asyncio.sleep(self.slow)
        for progress in request.progress:
            self.lines += progress.log_lines
        return task_pb2.HeartbeatTaskResponse(cancelled=self.cancelled)

    async def CompleteTask(self, request, context):
        self.note("complete", request)
        await asyncio.sleep(self.slow)
        self.note("completed", request)
        return task_pb2.CompleteTaskResponse()

    async def FailTask(self, request, context):
        self.note("fail", request)
        return task_pb2.FailTaskResponse(will_retry=True)

    async def ReleaseTask(self, request, context):
        self.note("release", request)
        return task_pb2.ReleaseTaskResponse()

    async def until(self, name: str) -> object:
        """The first call of that name."""
        while True:
            for called, request in self.calls:
                if called == name:
                    return request
            self.said.clear()
            await asyncio.wait_for(self.said.wait(), 20)


def spec(function: str) -> StageServiceSpec:
    return StageServiceSpec(
        name="sfm",
        stage=progress_pb2.STAGE_SFM,
        function=f"stages_for_tests:{function}",
        options=SfmOptions,
        options_field="sfm",
        settings=ServiceSettings,
        port_setting="",
        service_name="splatmill.v1.SfmService",
        method="RunSfm",
        response=sfm_pb2.RunSfmResponse,
        register=sfm_pb2_grpc.add_SfmServiceServicer_to_server,
    )


class SfmTestSettings(ServiceSettings):
    sfm_port: int = 0


def service_spec(function: str) -> StageServiceSpec:
    return replace(spec(function), settings=SfmTestSettings, port_setting="sfm_port")


class Bench:
    """A registry's port, a store, and workers on demand."""

    def __init__(self, folder: Path) -> None:
        self.tasks = Tasks()
        self.store = LocalStore(folder / "data")
        self.busy = asyncio.Lock()
        self.port = 0
        self.server = Server()
        (self.store.root / "jobs/j/upload").mkdir(parents=True)

    async def open(self, port: int = 0) -> None:
        self.server = Server()
        register = task_pb2_grpc.add_TaskServiceServicer_to_server
        self.server.add("splatmill.v1.TaskService", lambda server: register(self.tasks, server))
        self.port = await self.server.start("127.0.0.1", port)

    def offer(self, seconds: int = 60) -> None:
        task = task_pb2.LeasedTask(
            job_id="j",
            stage=progress_pb2.STAGE_SFM,
            attempt=1,
            lease_token="token",
            input_prefix="jobs/j/upload",
            output_prefix="jobs/j/work/sfm-1",
        )
        task.lease_duration.FromSeconds(seconds)
        self.tasks.waiting.append(task)

    def work(self, function: str) -> asyncio.Task[None]:
        settings = ServiceSettings(registry_address=f"127.0.0.1:{self.port}")
        return asyncio.create_task(worker.Worker(spec(function), settings, self.store, self.busy).run())

    @property
    def output(self) -> Path:
        return self.store.root / "jobs/j/work/sfm-1"


@pytest.fixture
async def bench(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(child_process, "TERMINATE_SECONDS", 0.5)
    monkeypatch.setattr(lease, "REPORT_SECONDS", 0.1)
    made = Bench(tmp_path)
    await made.open()
    yield made
    await made.server.stop(0)


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def alive(pid: int) -> bool:
    """Whether a process runs; a dead one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_completes_with_files_and_every_log_line(bench):
    bench.offer()
    task = bench.work("good")
    request = await bench.tasks.until("complete")
    assert [(f.path, f.size_bytes, len(f.sha256)) for f in request.files] == [("sub/answer.txt", 2, 32)]
    assert dict(request.result.metrics) == {"answer": 42.0}
    assert bench.tasks.lines == [f"step {k}" for k in range(5)]
    await stop(task)


async def test_fails_with_the_stage_s_reason(bench):
    bench.offer()
    task = bench.work("typed_error")
    request = await bench.tasks.until("fail")
    assert request.error.reason == "NO_OVERLAP"
    assert request.error.remedy
    assert not request.error.retryable
    assert not bench.output.exists()
    assert bench.tasks.lines == ["the last words"]
    await stop(task)


@pytest.mark.parametrize("how", ["lost", "cancelled"])
async def test_drops_the_work(bench, how):
    bench.offer()
    task = bench.work("endless")
    await bench.tasks.until("heartbeat")
    setattr(bench.tasks, how, True)
    for _ in range(100):
        await asyncio.sleep(0.05)
        if not bench.output.exists():
            break
    assert not bench.output.exists()
    assert {name for name, _ in bench.tasks.calls} == {"heartbeat"}
    await stop(task)


async def test_stopping_gives_the_task_back(bench):
    bench.offer()
    task = bench.work("endless")
    await bench.tasks.until("heartbeat")
    await stop(task)
    assert bench.tasks.calls[-1][0] == "release"
    assert not bench.output.exists()


async def test_a_registry_that_restarts_in_the_middle(bench):
    bench.offer()
    task = bench.work("slow")
    await bench.tasks.until("heartbeat")
    await bench.server.stop(0)
    await asyncio.sleep(0.5)
    await bench.open(bench.port)
    await bench.tasks.until("complete")
    assert (bench.output / "done.txt").exists()
    await stop(task)


async def test_a_registry_that_comes_later(bench):
    await bench.server.stop(0)
    bench.offer()
    task = bench.work("good")
    await asyncio.sleep(0.5)
    await bench.open(bench.port)
    await bench.tasks.until("complete")
    await stop(task)


async def test_a_registry_that_stays_away_ends_the_work(bench):
    bench.offer(seconds=1)
    task = bench.work("endless")
    await bench.tasks.until("heartbeat")
    await bench.server.stop(0)
    await until(lambda: not bench.output.exists(), 10)
    bench.tasks.calls.clear()
    bench.offer()
    await bench.open(bench.port)
    await bench.tasks.until("heartbeat")  # it has gone on with the next task
    await stop(task)


@pytest.mark.parametrize("name", ["heartbeat", "complete", "fail"])
async def test_passing_errors_of_the_registry_are_sat_out(bench, name):
    busy = SplatmillError(Reason.UNAVAILABLE, "The database is away.")
    bench.tasks.errors[name] = [busy, KeyError("a bug"), busy]
    bench.offer()
    task = bench.work("typed_error" if name == "fail" else "good")
    request = await bench.tasks.until("fail" if name == "fail" else "completed")
    assert getattr(request, "error", None) is None or request.error.reason == "NO_OVERLAP"
    assert not bench.tasks.errors[name]
    await stop(task)


async def test_a_complete_that_is_refused_fails_the_attempt(bench):
    bench.tasks.errors["complete"] = [SplatmillError(Reason.INVALID_REQUEST, "Not as described.", "", True)]
    bench.offer()
    task = bench.work("good")
    request = await bench.tasks.until("fail")
    assert request.error.reason == "INVALID_REQUEST"
    assert request.error.retryable
    assert not bench.output.exists()
    await stop(task)


async def test_an_unexpected_error_of_the_worker_is_a_failure_not_its_end(bench, monkeypatch):
    def full(prefix: str, scratch: Path) -> Path:
        raise PermissionError(13, "Permission denied")

    bench.offer()
    with monkeypatch.context() as broken:
        broken.setattr(bench.store, "prepare_output", full)
        task = bench.work("good")
        request = await bench.tasks.until("fail")
    assert request.error.reason == "INTERNAL"
    assert "PermissionError" in request.error.message
    bench.offer()
    await bench.tasks.until("complete")
    await stop(task)


async def test_a_missing_input_names_the_setting(bench):
    shutil.rmtree(bench.store.root / "jobs/j/upload")
    bench.offer()
    task = bench.work("good")
    request = await bench.tasks.until("fail")
    assert request.error.reason == "INPUT_NOT_FOUND"
    assert "SPLATMILL_DATA_DIR" in request.error.remedy
    await stop(task)


async def test_the_lease_is_kept_while_files_are_stored(bench, monkeypatch):
    """A remote store may take longer than a lease."""
    heartbeats = []

    def slow_checkin(folder: Path, prefix: str) -> None:
        before = len(bench.tasks.calls)
        time.sleep(1.5)
        heartbeats.append(len(bench.tasks.calls) - before)

    monkeypatch.setattr(bench.store, "checkin", slow_checkin)
    bench.offer(seconds=1)
    task = bench.work("good")
    await bench.tasks.until("complete")
    assert heartbeats[0] >= 3
    await stop(task)


async def test_log_lines_keep_their_order_when_the_registry_is_slow(bench):
    bench.tasks.slow = 0.4
    bench.offer()
    task = bench.work("slow")
    await bench.tasks.until("complete")
    assert bench.tasks.lines == [f"line {k}" for k in range(40)]
    await stop(task)


async def test_a_flood_of_log_lines_arrives_in_pieces(bench):
    bench.offer()
    task = bench.work("talkative")
    await bench.tasks.until("complete")
    assert [int(line.split()[0]) for line in bench.tasks.lines] == list(range(6000))
    sizes = [request.ByteSize() for name, request in bench.tasks.calls if name == "heartbeat"]
    assert max(sizes) < 1 << 20
    await stop(task)


async def test_stopping_lets_the_registry_finish_publishing(bench):
    """Nobody may take files away that the registry is moving."""
    bench.tasks.slow = 1.0
    bench.offer()
    task = bench.work("good")
    await bench.tasks.until("complete")
    await stop(task)
    assert [name for name, _ in bench.tasks.calls if name != "heartbeat"] == [
        "complete",
        "completed",
        "release",
    ]


async def test_files_stay_when_nobody_knows_whether_they_are_published(bench):
    bench.tasks.slow = 30.0
    bench.offer()
    task = bench.work("quiet")
    await bench.tasks.until("complete")
    await bench.server.stop(0)
    await stop(task)
    assert (bench.output / "done.txt").exists()


async def test_sigterm_gives_the_task_back_and_ends_the_stage(bench):
    """The whole process, as Kubernetes stops it."""
    bench.offer()
    script = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
from services.common.stage_service import main
from test_worker import service_spec
main(service_spec("endless"))
"""
    environment = {
        **os.environ,
        "SPLATMILL_DATA_DIR": str(bench.store.root),
        "SPLATMILL_REGISTRY_ADDRESS": f"127.0.0.1:{bench.port}",
        "SPLATMILL_GRPC_HOST": "127.0.0.1",
        "SPLATMILL_SFM_PORT": "0",
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, env=environment)
    while not bench.tasks.lines:
        await bench.tasks.until("heartbeat")
        await asyncio.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 10) == 0
    assert bench.tasks.calls[-1][0] == "release"
    assert not bench.output.exists()
    assert not any(alive(int(pid)) for pid in bench.tasks.lines[0].split())


async def test_own_rpc_runs_without_the_registry(bench):
    server, data = Server(), bench.store.root
    servicer = StageServicer(spec("good"), ServiceSettings(), bench.store, bench.busy)
    server.add(
        "splatmill.v1.SfmService", lambda s: sfm_pb2_grpc.add_SfmServiceServicer_to_server(servicer, s)
    )
    port = await server.start("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = sfm_pb2_grpc.SfmServiceStub(channel)
        request = sfm_pb2.RunSfmRequest(input_dir="jobs/j/upload", output_dir="mine/out")
        answers = [answer async for answer in stub.RunSfm(request)]
        assert [a.WhichOneof("payload") for a in answers] == ["progress"] * 5 + ["result"]
        assert (data / "mine/out/sub/answer.txt").read_text() == "42"

        for bad, reason in (
            (sfm_pb2.RunSfmRequest(input_dir="../..", output_dir="new"), Reason.INVALID_REQUEST),
            (sfm_pb2.RunSfmRequest(input_dir="none", output_dir="new"), Reason.INPUT_NOT_FOUND),
            (request, Reason.INVALID_REQUEST),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.RunSfm(bad).read()
            assert from_rpc_error(caught.value).reason is reason
        async with bench.busy:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.RunSfm(sfm_pb2.RunSfmRequest(input_dir="jobs/j/upload", output_dir="new")).read()
        assert from_rpc_error(caught.value).reason is Reason.BUSY
    await server.stop(0)


async def test_cancelling_the_own_rpc_leaves_nothing(bench):
    server, data = Server(), bench.store.root
    servicer = StageServicer(spec("endless"), ServiceSettings(), bench.store, bench.busy)
    server.add(
        "splatmill.v1.SfmService", lambda s: sfm_pb2_grpc.add_SfmServiceServicer_to_server(servicer, s)
    )
    port = await server.start("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = sfm_pb2_grpc.SfmServiceStub(channel).RunSfm(
            sfm_pb2.RunSfmRequest(input_dir="jobs/j/upload", output_dir="out")
        )
        await call.read()
        assert (data / "out").exists()
        call.cancel()
        for _ in range(100):
            await asyncio.sleep(0.05)
            if not (data / "out").exists() and not bench.busy.locked():
                break
        assert not (data / "out").exists()
        assert not bench.busy.locked()
    await server.stop(0)
