"""What a worker may say under one lease, and how it keeps it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import TypeVar

import grpc.aio

from services.common.progress_codec import Coalescer
from services.common.stage import StageResult
from splatmill._status import error_detail, from_rpc_error
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import progress_pb2, task_pb2, task_pb2_grpc

CALL_SECONDS = 30.0
COMPLETE_SECONDS = 120.0
RELEASE_SECONDS = 3.0
REPORT_SECONDS = 1.0
_MAX_PAUSE_SECONDS = 3.0
_MAX_INTERNAL = 5  # times in a row that a bug of the registry is taken for a passing one

AnswerT = TypeVar("AnswerT")


class LeaseLost(Exception):
    """The task is another's, or nobody's, by now: drop it without a word."""


class Lease:
    """The right to work on a task.

    Args:
        tasks: The registry.
        leased: Its answer to LeaseTask.
    """

    def __init__(self, tasks: task_pb2_grpc.TaskServiceAsyncStub, leased: task_pb2.LeasedTask) -> None:
        self.pending = Coalescer()
        """Progress for the next heartbeat."""
        self.publishing = False
        """True while the registry may be moving the output: nobody else may touch it then."""
        self._tasks = tasks
        self._token = leased.lease_token
        self._seconds = max(1.0, leased.lease_duration.ToTimedelta().total_seconds())
        self._renewed = self._said = time.monotonic()
        self._one_report = asyncio.Lock()

    async def hold(self, work: Coroutine[None, None, None]) -> None:
        """Runs ``work`` to its end while heartbeats keep the lease.

        Raises:
            LeaseLost: The lease was lost, or the job cancelled; the work has been ended.
            SplatmillError: What the work raised.
        """
        working = asyncio.create_task(work)
        keeping = asyncio.create_task(self._keep())
        try:
            await asyncio.wait({working, keeping}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                await self._heard()  # cancelled on its way, a report would take its log lines along
                working.result()
            else:
                keeping.result()
        finally:
            for task in (working, keeping):
                task.cancel()
            await asyncio.gather(working, keeping, return_exceptions=True)

    async def _keep(self) -> None:
        """Heartbeats: about each second while there is something to say, else often enough."""
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            if self.pending or time.monotonic() - self._said >= self._seconds / 4:
                await self._report()

    async def flush(self) -> None:
        """Says all that is pending, and waits for what is being said."""
        await self._heard()
        while self.pending:
            await self._report()

    async def _heard(self) -> None:
        """Waits for what is being said."""
        async with self._one_report:
            pass

    async def _report(self) -> None:
        """One heartbeat; one at a time, so that log lines keep their order and none is lost."""
        async with self._one_report:
            self._said = time.monotonic()
            request = task_pb2.HeartbeatTaskRequest(lease_token=self._token, progress=self.pending.take())
            answer = await self._call(lambda: self._tasks.HeartbeatTask(request, timeout=CALL_SECONDS))
            self._renewed = time.monotonic()
            if answer.cancelled:
                raise LeaseLost

    async def complete(self, result: StageResult, files: list[task_pb2.OutputFile]) -> None:
        """Publishes the output. Cancelling waits a little for a call that is on its way."""
        message = progress_pb2.StageResult(metrics=dict(result.metrics))
        request = task_pb2.CompleteTaskRequest(lease_token=self._token, result=message, files=files)
        self.publishing = True
        call = asyncio.create_task(
            self._call(lambda: self._tasks.CompleteTask(request, timeout=COMPLETE_SECONDS), definite=True)
        )
        try:
            await asyncio.shield(call)
        except asyncio.CancelledError:
            await asyncio.wait({call}, timeout=RELEASE_SECONDS)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            raise

    async def fail(self, error: SplatmillError) -> bool:
        """Says that the attempt failed; answers whether there will be another."""
        request = task_pb2.FailTaskRequest(lease_token=self._token, error=error_detail(error))
        answer = await self._call(lambda: self._tasks.FailTask(request, timeout=CALL_SECONDS))
        return answer.will_retry

    async def release(self) -> None:
        """Gives the task back; tried once, for the process is about to end.

        Raises:
            SplatmillError: It could not be said. The lease then runs out by itself.
        """
        request = task_pb2.ReleaseTaskRequest(lease_token=self._token)
        try:
            await self._tasks.ReleaseTask(request, timeout=RELEASE_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        self.publishing = False

    async def _call(self, call: Callable[[], Awaitable[AnswerT]], definite: bool = False) -> AnswerT:
        """Calls until there is an answer, or the lease must have run out.

        Args:
            call: Makes the call.
            definite: Whether any answer says what has become of the output.
        """
        pause, internal = 0.2, 0
        while True:
            try:
                answer = await call()
            except grpc.aio.AioRpcError as raw:
                error = from_rpc_error(raw)
                internal += error.reason is Reason.INTERNAL
                passing = error.reason in (Reason.UNAVAILABLE, Reason.CANCELLED, Reason.INTERNAL)
                if not passing or internal > _MAX_INTERNAL:
                    self.publishing = self.publishing and not definite
                    if error.reason is Reason.LEASE_LOST:
                        raise LeaseLost from raw
                    raise error from raw
                if time.monotonic() - self._renewed > self._seconds:
                    raise LeaseLost from raw
            else:
                self.publishing = self.publishing and not definite
                return answer
            await asyncio.sleep(pause)
            pause = min(_MAX_PAUSE_SECONDS, 2 * pause)
