"""The worker loop: asks the registry for tasks, runs them, says how it goes.

The lease is the worker's only right to speak. While the registry is away the work goes on
until the lease would have run out; whatever is said after that is refused there anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import random
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import grpc.aio
from google.protobuf.duration_pb2 import Duration

from services.common import option_codec
from services.common.child_process import run_in_child
from services.common.progress_codec import Coalescer, progress_to_proto
from services.common.settings import ServiceSettings
from services.common.stage import Progress, StageContext, StageResult
from services.common.stage_spec import StageServiceSpec
from services.common.store import ArtifactStore
from splatmill._status import error_detail, from_rpc_error
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import progress_pb2, task_pb2, task_pb2_grpc

log = logging.getLogger(__name__)

LEASE_WAIT_SECONDS = 20
CALL_SECONDS = 30
REPORT_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 10.0

AnswerT = TypeVar("AnswerT")


class LeaseLost(Exception):
    """The task is another's, or nobody's, by now: drop it without a word."""


class Worker:
    """Takes one task at a time.

    Args:
        spec: The stage.
        settings: Where the registry is.
        store: Where files are.
        busy: Held while a task runs; shared with the stage's own RPC.
    """

    def __init__(
        self, spec: StageServiceSpec, settings: ServiceSettings, store: ArtifactStore, busy: asyncio.Lock
    ) -> None:
        self._spec = spec
        self._settings = settings
        self._store = store
        self._busy = busy
        self._id = f"{spec.name}-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._channel = grpc.aio.insecure_channel(settings.registry_address)
        self._tasks: task_pb2_grpc.TaskServiceAsyncStub = task_pb2_grpc.TaskServiceStub(self._channel)

    async def run(self) -> None:
        """Works until cancelled; a task at hand is then released at no cost of an attempt."""
        backoff, complained = 0.5, False
        try:
            while True:
                try:
                    async with self._busy:  # the stage's own RPC may have the process now
                        pass
                    leased = await self._lease()
                    if complained:
                        log.info("the registry at %s is back", self._settings.registry_address)
                    backoff, complained = 0.5, False
                    if leased is not None:
                        await self._work_or_release(leased)
                except SplatmillError as error:
                    if not complained:
                        log.warning(
                            "no task from the registry at %s: %s", self._settings.registry_address, error
                        )
                        complained = True
                    await asyncio.sleep(backoff * (0.5 + random.random()))
                    backoff = min(MAX_BACKOFF_SECONDS, 2 * backoff)
        finally:
            await self._channel.close(None)

    async def _lease(self) -> task_pb2.LeasedTask | None:
        request = task_pb2.LeaseTaskRequest(
            worker_id=self._id, stages=[self._spec.stage], wait=Duration(seconds=LEASE_WAIT_SECONDS)
        )
        try:
            answer = await self._tasks.LeaseTask(request, timeout=LEASE_WAIT_SECONDS + CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        return answer.task if answer.HasField("task") else None

    async def _work_or_release(self, leased: task_pb2.LeasedTask) -> None:
        """Works, unless a call of the stage's own RPC was faster."""
        if self._busy.locked():
            with contextlib.suppress(LeaseLost):
                await _Lease(self._tasks, leased).release()
            return
        async with self._busy:
            await self._work(leased)

    async def _work(self, leased: task_pb2.LeasedTask) -> None:
        name = f"job {leased.job_id} {self._spec.name} attempt {leased.attempt}"
        log.info("%s: begins", name)
        lease = _Lease(self._tasks, leased)
        scratch = Path(tempfile.mkdtemp(prefix="splatmill-"))
        try:
            result, folder = await self._run_stage(leased, lease, scratch)
            files = await asyncio.to_thread(_described_files, folder)
            await asyncio.to_thread(self._store.checkin, folder, leased.output_prefix)
            await lease.complete(result, files)
            log.info("%s: done", name)
        except LeaseLost:
            log.warning("%s: cancelled, or the lease is lost; its work is dropped", name)
            await self._drop(leased)
        except SplatmillError as error:
            log.warning("%s: failed: %s %s", name, error.reason, error)
            await self._drop(leased)
            with contextlib.suppress(LeaseLost):
                await lease.fail(error)
        except asyncio.CancelledError:
            log.info("%s: given back", name)
            await self._drop(leased)
            with contextlib.suppress(LeaseLost, SplatmillError):
                await lease.release()
            raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    async def _drop(self, leased: task_pb2.LeasedTask) -> None:
        await asyncio.to_thread(self._store.delete_prefix, leased.output_prefix)

    async def _run_stage(
        self, leased: task_pb2.LeasedTask, lease: _Lease, scratch: Path
    ) -> tuple[StageResult, Path]:
        options = option_codec.from_proto(
            getattr(leased.options, self._spec.options_field), self._spec.options
        )
        for name in ("input", "output", "work"):
            (scratch / name).mkdir()
        input_dir = await asyncio.to_thread(self._store.checkout, leased.input_prefix, scratch / "input")
        output_dir = await asyncio.to_thread(
            self._store.prepare_output, leased.output_prefix, scratch / "output"
        )
        run = run_in_child(
            self._spec.name, self._spec.function, input_dir, output_dir, options,
            StageContext(scratch_dir=scratch / "work"), self._settings,
        )  # fmt: skip
        reporter = asyncio.create_task(lease.report_forever())
        reader = asyncio.create_task(
            _drain(run, lambda p: lease.pending.add(progress_to_proto(self._spec.stage, p)))
        )
        try:
            await asyncio.wait({reporter, reader}, return_when=asyncio.FIRST_COMPLETED)
            if reader.done():
                result = reader.result()
                await lease.report()
                return result, output_dir
            reporter.result()
            raise LeaseLost
        finally:
            for task in (reader, reporter):
                task.cancel()
            await asyncio.gather(reader, reporter, return_exceptions=True)


async def _drain(
    run: AsyncIterator[Progress | StageResult], on_progress: Callable[[Progress], None]
) -> StageResult:
    """Reads a run to its end; the child ends with this task."""
    async with contextlib.aclosing(run) as messages:  # type: ignore[type-var]
        async for message in messages:
            if isinstance(message, StageResult):
                return message
            on_progress(message)
    raise AssertionError("a run ends with its result or an error")


class _Lease:
    """What may be said under one lease."""

    def __init__(self, tasks: task_pb2_grpc.TaskServiceAsyncStub, leased: task_pb2.LeasedTask) -> None:
        self.pending = Coalescer()
        self._tasks = tasks
        self._token = leased.lease_token
        self._seconds = max(1.0, leased.lease_duration.ToTimedelta().total_seconds())
        self._renewed = time.monotonic()
        self._said = time.monotonic()

    async def report_forever(self) -> None:
        """Heartbeats: about each second while there is something to say, else often enough."""
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            await self.report(only_if_due=True)

    async def report(self, only_if_due: bool = False) -> None:
        """Sends what is pending; raises LeaseLost when the work is to be dropped."""
        messages = self.pending.take()
        if only_if_due and not messages and time.monotonic() - self._said < self._seconds / 4:
            return
        self._said = time.monotonic()
        request = task_pb2.HeartbeatTaskRequest(lease_token=self._token, progress=messages)
        answer = await self._call(lambda: self._tasks.HeartbeatTask(request, timeout=CALL_SECONDS))
        self._renewed = time.monotonic()
        if answer.cancelled:
            raise LeaseLost

    async def complete(self, result: StageResult, files: list[task_pb2.OutputFile]) -> None:
        """Publishes the output."""
        message = progress_pb2.StageResult(metrics=dict(result.metrics))
        request = task_pb2.CompleteTaskRequest(lease_token=self._token, result=message, files=files)
        await self._call(lambda: self._tasks.CompleteTask(request, timeout=CALL_SECONDS))

    async def fail(self, error: SplatmillError) -> None:
        """Says that the attempt failed."""
        request = task_pb2.FailTaskRequest(lease_token=self._token, error=error_detail(error))
        await self._call(lambda: self._tasks.FailTask(request, timeout=CALL_SECONDS))

    async def release(self) -> None:
        """Gives the task back; tried once, for the process is about to end."""
        request = task_pb2.ReleaseTaskRequest(lease_token=self._token)
        try:
            await self._tasks.ReleaseTask(request, timeout=5)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    async def _call(self, call: Callable[[], Awaitable[AnswerT]]) -> AnswerT:
        """Calls until it works or the lease must have run out."""
        backoff = 0.2
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as raw:
                error = from_rpc_error(raw)
                if error.reason is Reason.LEASE_LOST:
                    raise LeaseLost from raw
                if error.reason is not Reason.UNAVAILABLE:
                    raise error from raw
                if time.monotonic() - self._renewed > self._seconds:
                    raise LeaseLost from raw
            await asyncio.sleep(backoff)
            backoff = min(3.0, 2 * backoff)


def _described_files(folder: Path) -> list[task_pb2.OutputFile]:
    """Every file of a folder with size and SHA-256."""
    files: list[Any] = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
            name = path.relative_to(folder).as_posix()
            files.append(task_pb2.OutputFile(path=name, size_bytes=path.stat().st_size, sha256=digest))
    return files
