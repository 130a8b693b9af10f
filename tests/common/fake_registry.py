"""A task service that speaks the real protocol, tiny stages' specs, and workers on demand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from services.common.grpc_server import Server
from services.common.options import SfmOptions
from services.common.settings import ServiceSettings
from services.common.stage_spec import StageServiceSpec
from services.common.store import LocalStore
from services.common.worker import Worker
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
        self.leases: list[task_pb2.LeaseTaskRequest] = []

    def note(self, name: str, request: object) -> None:
        if self.errors.get(name):
            raise self.errors[name].pop()
        if self.lost:
            raise SplatmillError(Reason.LEASE_LOST, "The lease is lost.")
        self.calls.append((name, request))
        self.said.set()

    async def LeaseTask(self, request, context):
        self.leases.append(request)
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

    def work(self, function: str, **more: Any) -> asyncio.Task[None]:
        settings = ServiceSettings(registry_address=f"127.0.0.1:{self.port}")
        stage = replace(spec(function), **more)
        return asyncio.create_task(Worker(stage, settings, self.store, self.busy).run())

    @property
    def output(self) -> Path:
        return self.store.root / "jobs/j/work/sfm-1"


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
