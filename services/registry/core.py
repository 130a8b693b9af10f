"""The registry's work as coroutines: database and files in threads, news to those who wait."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from sqlmodel import Session, col, select

from services.common.store import ArtifactStore
from services.registry import artifacts, events, jobs, leases
from services.registry.access import Access
from services.registry.caretaker import Caretaker
from services.registry.database import Database
from services.registry.job_log import append_log
from services.registry.keys import EVERYONE, Caller
from services.registry.listener import Listener
from services.registry.lookups import ENDED, job_by_id
from services.registry.models import Job
from services.registry.notify import TASKS, Notifier
from services.registry.settings import RegistrySettings
from services.registry.uploads import Upload
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import reconstruction_pb2 as pb
from splatmill.v1 import task_pb2

log = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0
_LISTEN_SECONDS = 5.0
_WORK_GRACE_SECONDS = 15.0
_THREADS = 16

ResultT = TypeVar("ResultT")


class Registry:
    """State and files of all jobs.

    Args:
        settings: The registry's settings.
        database: Open database.
        store: The artifact store.
    """

    def __init__(self, settings: RegistrySettings, database: Database, store: ArtifactStore) -> None:
        self.settings = settings
        self.database = database
        self.store = store
        self.news = Notifier(hears_all=not database.is_shared)
        database.on_news = self.news.notify
        self.access = Access(self.transact, settings.worker_token)
        self.caretaker = Caretaker(settings, self.transact, store)
        self._listener: Listener | None = None
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="registry")
        self._cleanup: dict[str, float] = {}
        self._reads: dict[tuple[str, int, int], asyncio.Task[tuple[list[pb.JobEvent], bool]]] = {}

    async def listen(self) -> None:
        """Begins to hear of what other replicas do, where there may be any."""
        if self.database.is_shared:
            arguments = self.database.connect_arguments()
            self._listener = Listener(arguments, self.database.name, self.news)
            await self._listener.ready(_LISTEN_SECONDS)

    async def in_thread(self, work: Callable[..., ResultT], *arguments: Any) -> ResultT:
        """Runs blocking work; it ends even when the caller is cancelled."""
        context = contextvars.copy_context()  # what log lines are about
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: context.run(work, *arguments)
        )

    async def transact(self, work: Callable[[Session], ResultT]) -> ResultT:
        """Runs work in one transaction."""
        return await self.in_thread(self.database.run, work)

    async def begin_upload(self, spec: pb.JobSpec, caller: Caller, trace: str) -> tuple[Job, bool]:
        """Makes the job of an upload."""
        return await self.transact(lambda session: jobs.create(session, spec, caller, trace))

    async def open_upload(self, job_id: str) -> Upload:
        """A receiver of photos."""
        return await self.in_thread(Upload, self.database, self.store, self.settings, job_id)

    async def submit(self, request: pb.SubmitJobRequest, caller: Caller = EVERYONE) -> Job:
        """Queues an uploaded job."""
        job = await self.transact(lambda session: jobs.submit(session, self.settings, request, caller))
        await self.in_thread(self.store.delete_prefix, artifacts.incoming_prefix(job.job_id))
        return job

    async def cancel(self, job_id: str) -> Job:
        """Ends a job."""
        job = await self.transact(lambda session: jobs.cancel(session, job_id))
        self._cleanup[job_id] = time.monotonic() + _WORK_GRACE_SECONDS
        return job

    async def retry(self, request: pb.RetryJobRequest) -> Job:
        """Queues an ended job again."""
        return await self.transact(lambda session: jobs.retry(session, request))

    async def remove(self, job_id: str) -> None:
        """Deletes a job and its files; a worker at it loses its lease and drops its output."""
        await self.transact(lambda session: jobs.remove(session, job_id))
        await self.in_thread(self.store.delete_prefix, artifacts.job_prefix(job_id))
        self._cleanup[job_id] = time.monotonic() + _WORK_GRACE_SECONDS

    async def lease(self, request: task_pb2.LeaseTaskRequest, wait: float) -> task_pb2.LeasedTask | None:
        """Waits up to ``wait`` seconds for a task."""
        deadline = time.monotonic() + wait
        stages = [int(stage) for stage in request.stages]

        def attempt(session: Session) -> tuple[task_pb2.LeasedTask | None, float | None]:
            leased = leases.lease(session, self.settings, request)
            return leased, None if leased is not None else leases.next_due(session, stages)

        with self.news.subscribe(TASKS) as news:
            while True:
                leased, due = await self.transact(attempt)
                if leased is not None:
                    return leased
                left = deadline - time.monotonic()
                if left <= 0 or self.news.closed:
                    return None
                pause = left if due is None else max(0.0, due - time.time())
                await news.wait(min(left, pause, self.news.poll_seconds))

    async def heartbeat(self, request: task_pb2.HeartbeatTaskRequest) -> bool:
        """Takes progress in; answers whether the job is cancelled."""
        job, lines, cancelled = await self.transact(
            lambda session: leases.heartbeat(session, self.settings, request.lease_token, request.progress)
        )
        await self.write_log(job.job_id, lines)
        return cancelled

    async def complete(self, request: task_pb2.CompleteTaskRequest) -> None:
        """Publishes a task's output."""
        job = await self.transact(lambda session: leases.complete(session, self.store, request))
        await self._after_task(job, [])

    async def fail(self, request: task_pb2.FailTaskRequest) -> bool:
        """Ends an attempt; answers whether there will be another."""
        job, again = await self.transact(
            lambda session: leases.fail(session, self.settings, request.lease_token, request.error)
        )
        error = request.error
        await self._after_task(job, [f"ERROR {error.reason}: {error.message} {error.remedy}".rstrip()])
        return again

    async def release(self, token: str) -> None:
        """Takes a task back."""
        job = await self.transact(lambda session: leases.release(session, token))
        await self._after_task(job, [])

    async def _after_task(self, job: Job, lines: list[str]) -> None:
        await self.write_log(job.job_id, lines)
        if job.state in ENDED:
            await self.in_thread(self.store.delete_prefix, artifacts.work_prefix(job.job_id))

    async def write_log(self, job_id: str, lines: list[str]) -> None:
        """Adds lines to a job's log file."""
        if lines:
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            data = "".join(f"{now} {line}\n" for line in lines).encode()
            key = f"{artifacts.job_prefix(job_id)}/{artifacts.LOG_NAME}"
            await self.in_thread(append_log, self.store, key, data, self.settings.max_log_bytes)

    async def watch(self, job_id: str, after: int) -> AsyncIterator[pb.JobEvent]:
        """A job's events behind ``after``, until it ends."""
        with self.news.subscribe(job_id) as news:
            while True:
                batch, ended = await self._read(job_id, after)
                for event in batch:
                    yield event
                    after = event.sequence
                if ended or self.news.closed:
                    return
                if not batch:
                    await news.wait(self.news.poll_seconds)

    async def _read(self, job_id: str, after: int) -> tuple[list[pb.JobEvent], bool]:
        """Reads once for all who were woken together and stand at the same event."""
        key = (job_id, after, self.news.generation)
        reading = self._reads.get(key)
        if reading is None:
            work = partial(self._news_of, job_id=job_id, after=after)
            reading = self._reads[key] = asyncio.create_task(self.transact(work))
            reading.add_done_callback(lambda _: self._reads.pop(key, None))
        return await asyncio.shield(reading)

    def _news_of(self, session: Session, *, job_id: str, after: int) -> tuple[list[pb.JobEvent], bool]:
        job = job_by_id(session, job_id)
        batch = events.read(session, job_id, after)
        last = batch[-1].sequence if batch else after
        return batch, job.state in ENDED and last >= job.last_sequence

    async def sweep_forever(self) -> None:
        """Ends leases that ran out, removes broken uploads and what dead attempts left."""
        while True:
            try:
                await self._sweep()
                await self.caretaker.look_after()
            except SplatmillError as error:
                log.warning("sweeping has to wait: %s", error)
            except Exception:
                log.exception("sweeping failed; it is tried again")
            await asyncio.sleep(SWEEP_SECONDS)

    async def _sweep(self) -> None:
        for job_id in await self.transact(lambda session: leases.expire(session, self.settings)):
            log.warning("a lease of job %s ran out", job_id, extra={"job_id": job_id})
        await self.transact(leases.tell_queue)
        limit = time.time() - self.settings.upload_ttl_seconds
        stale = select(Job.job_id).where(Job.state == pb.JOB_STATE_UPLOADING, col(Job.touched_at) < limit)
        for job_id in await self.transact(lambda session: list(session.exec(stale).all())):
            await self._remove_stale(job_id)
        now = time.monotonic()
        for job_id, due in list(self._cleanup.items()):
            if due < now:
                del self._cleanup[job_id]
                await self._clean(job_id)

    async def _remove_stale(self, job_id: str) -> None:
        try:
            await self.remove(job_id)
        except SplatmillError as error:  # another replica was faster
            if error.reason is not Reason.JOB_NOT_FOUND:
                raise

    async def _clean(self, job_id: str) -> None:
        """Removes what a worker may have written after its job was cancelled or deleted."""
        query = select(Job.state).where(Job.job_id == job_id)
        state = await self.transact(lambda session: session.exec(query).first())
        if state is None:
            await self.in_thread(self.store.delete_prefix, artifacts.job_prefix(job_id))
        elif state in ENDED:
            await self.in_thread(self.store.delete_prefix, artifacts.work_prefix(job_id))

    async def stop_listening(self) -> None:
        """Ends long polls and watches, and hears of nothing more."""
        self.news.close()
        if self._listener is not None:
            await self._listener.close()

    def close(self) -> None:
        """Ends the threads and closes the database."""
        self._threads.shutdown(wait=True)
        self.database.close()
