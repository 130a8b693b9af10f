"""Who works on what: leases, their end, and what follows from it.

A lease token names a task and one start of it. Whatever is said with a token that is not
the task's present one, or after the lease has run out, is refused: so a worker that was
away too long cannot change anything.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

from sqlalchemy import func
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import Select

from services.common.store import ArtifactStore
from services.registry import artifacts, events, history, observations, quotas, workers
from services.registry.lookups import ENDED, count_photos, job_by_id, lock_line, tasks_of
from services.registry.models import ErrorLog, Job, Line, Task
from services.registry.settings import RegistrySettings
from splatmill._status import error_detail
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import options_pb2, progress_pb2, task_pb2
from splatmill.v1 import reconstruction_pb2 as pb

_QUEUE_EVENTS = 100  # waiting jobs that are told of their place; the rest see it when they ask


# Who waits: the higher priority, then the earlier round, then who came first.
LINE_ORDER = (col(Job.rank), col(Job.turn), col(Job.queue_number))


def lease(
    session: Session, settings: RegistrySettings, request: task_pb2.LeaseTaskRequest
) -> task_pb2.LeasedTask | None:
    """Gives the next task of one of the worker's stages to it, or None.

    Running jobs come before waiting ones, both in the order of the queue. A waiting job
    starts only when it is the first and there is room.
    """
    now = time.time()
    line: Line | None = None
    stages = list(map(int, request.stages))
    speed = request.training_device.SerializeToString() if request.HasField("training_device") else None
    workers.note(session, request.worker_id, stages, request.device, speed)
    running = _due(stages, now).where(Job.state == pb.JOB_STATE_PROCESSING)
    row = session.exec(running.with_for_update(skip_locked=True)).first()
    if row is None:
        waiting = _due(stages, now).where(Job.state == pb.JOB_STATE_PENDING)
        if session.exec(waiting).first() is None or not _has_room(session, settings):
            return None
        # Counting running jobs and starting one must not happen twice at once on any replica.
        line = lock_line(session)
        if not _has_room(session, settings):
            return None
        row = session.exec(waiting.with_for_update().execution_options(populate_existing=True)).first()
    if row is None:
        return None
    task, job = row
    if line is not None:
        line.turn, line.moved = max(line.turn, job.turn), True
        session.add(line)
    task.worker_id, task.device = request.worker_id, request.device
    _begin(session, settings, task, job, now)
    return _leased(session, settings, task, job)


def _due(stages: Sequence[int], now: float) -> Select[Task, Job]:
    """The first task in the order of the queue that may begin."""
    return (
        select(Task, Job)
        .join(Job, col(Job.job_id) == col(Task.job_id))
        .where(Task.state == pb.TASK_STATE_QUEUED, col(Task.stage).in_(stages), Task.not_before <= now)
        .order_by(*LINE_ORDER)
        .limit(1)
    )


def next_due(session: Session, stages: Sequence[int]) -> float | None:
    """When the pause before a task's next attempt ends, or None; seconds since the epoch."""
    query = select(func.min(Task.not_before)).where(
        Task.state == pb.TASK_STATE_QUEUED, col(Task.stage).in_(stages), Task.not_before > time.time()
    )
    return session.exec(query).one()


def _has_room(session: Session, settings: RegistrySettings) -> bool:
    return not settings.max_concurrent_jobs or count_running(session) < settings.max_concurrent_jobs


def count_running(session: Session) -> int:
    """Jobs in PROCESSING."""
    return session.exec(select(func.count()).where(Job.state == pb.JOB_STATE_PROCESSING)).one()


def _begin(session: Session, settings: RegistrySettings, task: Task, job: Job, now: float) -> None:
    task.attempt += 1
    task.starts += 1
    task.lease_token = f"{task.id}-{task.starts}-{secrets.token_hex(16)}"
    task.lease_expires_at = now + settings.lease_seconds
    task.started_at, task.finished_at, task.progress = now, None, None
    if job.state == pb.JOB_STATE_PENDING:
        job.started_at = now
        observations.note_start(session, job)
        events.set_job_state(session, job, pb.JOB_STATE_PROCESSING)
    events.set_task_state(session, job, task, pb.TASK_STATE_LEASED)


def _leased(session: Session, settings: RegistrySettings, task: Task, job: Job) -> task_pb2.LeasedTask:
    leased = task_pb2.LeasedTask(
        job_id=job.job_id,
        stage=progress_pb2.Stage.ValueType(task.stage),
        attempt=task.attempt,
        lease_token=task.lease_token or "",
        options=options_pb2.JobOptions.FromString(job.options),
        input_prefix=artifacts.input_prefix(job.job_id, task.stage),
        output_prefix=artifacts.output_prefix(job.job_id, task.stage, task.starts),
        image_count=count_photos(session, job.job_id),
        checkpoint_prefix=artifacts.checkpoint_prefix(job.job_id, task.stage),
        traceparent=job.trace,
    )
    leased.lease_duration.FromMilliseconds(int(settings.lease_seconds * 1000))
    return leased


def held(session: Session, token: str) -> tuple[Task, Job]:
    """The task that a token still gives a right to, its job's row locked.

    Raises:
        SplatmillError: LEASE_LOST.
    """
    task = session.exec(select(Task).where(Task.lease_token == token[:128])).first() if token else None
    if task is not None:
        job = job_by_id(session, task.job_id, lock=True)
        session.refresh(task)
        live = task.state != pb.TASK_STATE_LEASED or (task.lease_expires_at or 0) > time.time()
        if task.lease_token == token and live:
            return task, job
    raise SplatmillError(
        Reason.LEASE_LOST,
        "This lease is over: the task has gone to another worker, or its job is gone.",
        "Drop the work.",
    )


def heartbeat(
    session: Session, settings: RegistrySettings, token: str, progress: Sequence[progress_pb2.StageProgress]
) -> tuple[Job, list[str], bool]:
    """Renews a lease and takes progress in; answers job, new log lines, and if cancelled."""
    task, job = held(session, token)
    if task.state == pb.TASK_STATE_CANCELLED:
        return job, [], True
    if task.state != pb.TASK_STATE_LEASED:
        return job, [], False
    task.lease_expires_at = time.time() + settings.lease_seconds
    lines: list[str] = []
    for message in progress:
        lines += message.log_lines
        events.record(session, job, progress=message)
        newest = progress_pb2.StageProgress()
        newest.CopyFrom(message)
        del newest.log_lines[:]
        task.progress = newest.SerializeToString()
    events.add_log_lines(session, job.job_id, lines)
    session.add(task)
    return job, lines, False


def complete(session: Session, store: ArtifactStore, request: task_pb2.CompleteTaskRequest) -> Job:
    """Publishes an attempt's output and moves the job on. A repeated call changes nothing.

    Raises:
        SplatmillError: LEASE_LOST, or INVALID_REQUEST when a file is not there as described.
    """
    task, job = held(session, request.lease_token)
    if task.state == pb.TASK_STATE_SUCCEEDED:
        return job
    if task.state != pb.TASK_STATE_LEASED:
        raise SplatmillError(Reason.LEASE_LOST, "The task was cancelled.", "Drop the work.")
    artifacts.publish(session, store, job, task, request.files)
    task.result = request.result.SerializeToString()
    task.finished_at = time.time()
    quotas.charge(session, job, task)
    history.record(session, job, task)
    observations.note_end(session, task, "succeeded")
    events.set_task_state(session, job, task, pb.TASK_STATE_SUCCEEDED)
    for following in tasks_of(session, job.job_id):
        if following.stage == task.stage + 1:
            events.set_task_state(session, job, following, pb.TASK_STATE_QUEUED)
            return job
    job.finished_at = task.finished_at
    observations.note_job_done(session, job)
    events.set_job_state(session, job, pb.JOB_STATE_COMPLETED)
    return job


def release(session: Session, token: str) -> Job:
    """Takes a task back unfinished; the attempt does not count."""
    task, job = held(session, token)
    if task.state == pb.TASK_STATE_LEASED:
        quotas.charge(session, job, task)
        observations.note_end(session, task, "released")
        task.attempt -= 1
        task.not_before = time.time()  # at once; it has not waited while it was worked on
        task.lease_token = task.lease_expires_at = None
        events.set_task_state(session, job, task, pb.TASK_STATE_QUEUED)
    return job


def fail(
    session: Session, settings: RegistrySettings, token: str, error: progress_pb2.ErrorDetail
) -> tuple[Job, bool]:
    """Ends an attempt with an error; answers the job and whether there will be another attempt."""
    task, job = held(session, token)
    if task.state != pb.TASK_STATE_LEASED:
        return job, False
    observations.note_end(session, task, "failed")
    return job, _fail_attempt(session, settings, task, job, error)


def expire(session: Session, settings: RegistrySettings) -> list[str]:
    """Ends leases that have run out; answers the ids of their jobs."""
    query = select(Task.job_id).where(
        Task.state == pb.TASK_STATE_LEASED, col(Task.lease_expires_at) < time.time()
    )
    # All replicas do this: in one order, so that none waits for another in a circle.
    job_ids = sorted(session.exec(query).all())
    for job_id in job_ids:
        job = job_by_id(session, job_id, lock=True)
        for task in tasks_of(session, job_id):
            session.refresh(task)
            if task.state == pb.TASK_STATE_LEASED and (task.lease_expires_at or 0) < time.time():
                observations.note_end(session, task, "expired")
                _fail_attempt(session, settings, task, job, error_detail(_vanished(task)))
    return job_ids


def _vanished(task: Task) -> SplatmillError:
    return SplatmillError(
        Reason.STAGE_CRASHED, f"The worker {task.worker_id} was not heard of for too long.",
        "Look whether it was killed for memory; smaller photos or fewer Gaussians need less.", retryable=True,
    )  # fmt: skip


def _fail_attempt(
    session: Session, settings: RegistrySettings, task: Task, job: Job, error: progress_pb2.ErrorDetail
) -> bool:
    now = time.time()
    quotas.charge(session, job, task)
    session.add(ErrorLog(
        job_id=job.job_id, stage=task.stage, attempt=task.attempt, worker_id=task.worker_id,
        created_at=now, error=error.SerializeToString(),
    ))  # fmt: skip
    task.lease_token = task.lease_expires_at = None
    again = error.retryable and task.attempt < settings.max_attempts
    events.add_log_lines(
        session, job.job_id, [f"ERROR {error.reason}: {error.message} {error.remedy}".rstrip()]
    )
    if again:
        task.not_before = now + settings.retry_seconds * 2 ** (task.attempt - 1)
        events.set_task_state(session, job, task, pb.TASK_STATE_QUEUED, error)
        return True
    task.finished_at = job.finished_at = now
    events.set_task_state(session, job, task, pb.TASK_STATE_FAILED, error)
    job.error = error.SerializeToString()
    events.set_job_state(session, job, pb.JOB_STATE_FAILED, error)
    return False


def tell_queue(session: Session) -> None:
    """Tells the first waiting jobs where they stand now, where that has changed.

    The sweeper does so, about every second: each change of the line would otherwise cost as
    many writes as there are jobs behind it.
    """
    if not session.get_one(Line, 1).moved:
        return
    line = lock_line(session)
    line.moved = False
    session.add(line)
    query = select(Job).where(Job.state == pb.JOB_STATE_PENDING).order_by(*LINE_ORDER).limit(_QUEUE_EVENTS)
    for position, job in enumerate(session.exec(query.with_for_update()).all(), start=1):
        if job.told_position != position:
            job.told_position = position
            events.record(session, job, queue_position_changed=pb.QueuePositionChanged(position=position))


def is_ended(job: Job) -> bool:
    """Whether a job is in a final state."""
    return job.state in ENDED
