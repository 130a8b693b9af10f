"""The worker loop: asks the registry for tasks, runs them, says how it goes.

The lease is the worker's only right to speak. While the registry is away the work goes on
until the lease would have run out; whatever is said after that is refused there anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import random
import secrets
import socket
import tempfile
from pathlib import Path
from typing import Any

import grpc.aio
from google.protobuf.duration_pb2 import Duration

from services.common import metrics, option_codec
from services.common.calibrating import Calibrating
from services.common.child_process import run_in_child
from services.common.lease import Lease, LeaseLost
from services.common.log_context import about
from services.common.progress_codec import progress_to_proto
from services.common.settings import ServiceSettings
from services.common.stage import StageContext, StageResult
from services.common.stage_spec import StageServiceSpec
from services.common.store import ArtifactStore
from services.common.tls import tls_of
from services.common.tracing import Steps, span, trace_id
from splatmill._status import from_rpc_error
from splatmill._transport import Authorized, open_channel
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import task_pb2, task_pb2_grpc

log = logging.getLogger(__name__)

LEASE_WAIT_SECONDS = 20
CALIBRATING_WAIT_SECONDS = 2
"""The same while the device is measured: what comes of it is to be told soon."""
MAX_BACKOFF_SECONDS = 10.0
QUIET_FAILURES = 4
READY_SECONDS = 2.0

_CHANNEL_OPTIONS = (
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # The default grows to two minutes: longer than a lease.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Workers and registry live in one network; a proxy for the web does not know it.
    ("grpc.enable_http_proxy", 0),
)


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
        self._id = f"{spec.name}-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"[-128:]
        self._device = spec.device(settings)
        self._calibrating = Calibrating(spec, settings, busy)
        metrics.note_idle(spec.name)
        self._channel = open_channel(settings.registry_address, _CHANNEL_OPTIONS, tls_of(settings))
        self._tasks: Any = Authorized(
            task_pb2_grpc.TaskServiceStub(self._channel), lambda: settings.worker_token
        )

    async def reaches_registry(self) -> bool:
        """Whether the registry answers; a stage that works alone needs none."""
        if os.environ.get("SPLATMILL_WORKER", "1") == "0":
            return True
        try:
            await asyncio.wait_for(self._channel.channel_ready(), READY_SECONDS)
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Works until cancelled; a task at hand is then released at no cost of an attempt."""
        backoff, failures = 0.5, 0
        try:
            while True:
                async with self._busy:  # the stage's own RPC may have the process now
                    pass
                try:
                    leased = await self._lease()
                except SplatmillError as error:
                    failures += 1
                    if failures == QUIET_FAILURES:  # services that start together find each other sooner
                        log.warning(
                            "waiting for the registry at %s: %s", self._settings.registry_address, error
                        )
                    await asyncio.sleep(backoff * (0.5 + random.random()))
                    backoff = min(MAX_BACKOFF_SECONDS, 2 * backoff)
                    continue
                if failures >= QUIET_FAILURES:
                    log.info("the registry at %s answers", self._settings.registry_address)
                backoff, failures = 0.5, 0
                if leased is None:
                    self._calibrating.begin()
                else:
                    await self._work_or_release(leased)
        finally:
            await self._calibrating.stop()
            await self._channel.close(None)

    async def _lease(self) -> task_pb2.LeasedTask | None:
        wait = CALIBRATING_WAIT_SECONDS if self._calibrating.pending else LEASE_WAIT_SECONDS
        request = task_pb2.LeaseTaskRequest(
            worker_id=self._id,
            stages=[self._spec.stage],
            wait=Duration(seconds=wait),
            device=self._device[:100],
            training_device=self._calibrating.result,
        )
        try:
            answer = await self._tasks.LeaseTask(request, timeout=wait + 10)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        return answer.task if answer.HasField("task") else None

    async def _work_or_release(self, leased: task_pb2.LeasedTask) -> None:
        """Works, unless a call of the stage's own RPC was faster."""
        if self._busy.locked():
            with contextlib.suppress(SplatmillError):
                await Lease(self._tasks, leased).release()
            return
        subject = about(
            job_id=leased.job_id, task_id=leased.lease_token.partition("-")[0], stage=self._spec.name,
            attempt=leased.attempt, worker_id=self._id, trace_id=trace_id(leased.traceparent),
        )  # fmt: skip
        async with self._busy:
            metrics.WORKER_BUSY.labels(self._spec.name).set(1)
            try:
                with subject:
                    await self._work(leased)
            finally:
                metrics.note_idle(self._spec.name)

    async def _work(self, leased: task_pb2.LeasedTask) -> None:
        """Works on a task, whatever comes of it; raises CancelledError alone."""
        name = f"job {leased.job_id} {self._spec.name} attempt {leased.attempt}"
        log.info("%s: begins", name)
        lease = Lease(self._tasks, leased)
        try:
            ids: dict[str, Any] = {"job_id": leased.job_id, "attempt": leased.attempt}
            with (
                tempfile.TemporaryDirectory(prefix="splatmill-", ignore_cleanup_errors=True) as scratch,
                span(f"stage {self._spec.name}", leased.traceparent, **ids, worker_id=self._id) as trace,
                Steps(trace) as steps,
            ):
                await lease.hold(self._make(leased, lease, Path(scratch), steps))
            log.info("%s: done", name)
            self._count("succeeded")
        except LeaseLost:
            log.warning("%s: cancelled, or the lease is lost; its work is dropped", name)
            self._count("lost")
            await self._drop(leased, lease)
        except SplatmillError as error:
            await self._fail(name, leased, lease, error)
        except asyncio.CancelledError:
            with contextlib.suppress(SplatmillError):
                await lease.release()
                log.info("%s: given back", name)
            self._count("released")
            await self._drop(leased, lease)
            raise
        except Exception as error:
            log.exception("%s: unexpected error", name)
            await self._fail(name, leased, lease, SplatmillError(
                Reason.INTERNAL, f"The worker failed unexpectedly: {type(error).__name__}: {error}",
                "The service's log has the details. Trying again may help.", retryable=True,
            ))  # fmt: skip

    async def _make(self, leased: task_pb2.LeasedTask, lease: Lease, scratch: Path, steps: Steps) -> None:
        """From input to published output."""
        await self._calibrating.stop()
        options = option_codec.from_proto(
            getattr(leased.options, self._spec.options_field), self._spec.options
        )
        for name in ("input", "output", "work"):
            (scratch / name).mkdir()
        input_dir = await asyncio.to_thread(self._store.checkout, leased.input_prefix, scratch / "input")
        output_dir = await asyncio.to_thread(
            self._store.prepare_output, leased.output_prefix, scratch / "output"
        )
        lasting = leased.checkpoint_prefix
        context = StageContext(
            scratch_dir=scratch / "work",
            checkpoint_dir=self._store.lasting_folder(lasting) if lasting else None,
        )
        run = run_in_child(
            self._spec.name, self._spec.function, input_dir, output_dir, options, context, self._settings
        )
        result = StageResult()
        async with contextlib.aclosing(run) as messages:  # type: ignore[type-var]
            async for message in messages:
                if isinstance(message, StageResult):
                    result = message
                else:
                    steps.note(message.step)
                    if message.gpu_memory is not None:
                        metrics.note_gpu_memory(message.gpu_memory)
                    lease.pending.add(progress_to_proto(self._spec.stage, message))
        steps.note("publish")
        files = await asyncio.to_thread(_described_files, output_dir)
        await asyncio.to_thread(self._store.checkin, output_dir, leased.output_prefix)
        await lease.flush()
        await lease.complete(result, files)

    async def _fail(
        self, name: str, leased: task_pb2.LeasedTask, lease: Lease, error: SplatmillError
    ) -> None:
        """Says that a task failed, after the last words of its log."""
        log.warning("%s: failed: %s: %s", name, error.reason, error)
        self._count("failed")
        await self._drop(leased, lease)
        try:
            await lease.flush()
            again = await lease.fail(error)
        except (LeaseLost, SplatmillError) as unsaid:
            log.warning("%s: the registry does not take the failure: %s", name, unsaid)
        else:
            log.info("%s: %s", name, "will be tried again" if again else "will not be tried again")

    def _count(self, outcome: str) -> None:
        metrics.WORKER_TASKS.labels(self._spec.name, outcome).inc()

    async def _drop(self, leased: task_pb2.LeasedTask, lease: Lease) -> None:
        """Removes the output, unless the registry may be publishing it."""
        if not lease.publishing:
            await asyncio.to_thread(self._store.delete_prefix, leased.output_prefix)


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
