"""What people do with jobs: create, submit, cancel, retry, delete, list."""

from __future__ import annotations

import secrets
import string
import time
from collections.abc import Sequence

from sqlalchemy import func
from sqlmodel import Session, col, delete, select

from services.common import option_codec
from services.common.store import ArtifactStore
from services.registry import artifacts, events, leases
from services.registry.lookups import ENDED, job_by_id, lock_line, tasks_of
from services.registry.models import Artifact, Event, Image, Job, Line, LogLine, Task
from services.registry.notify import TASKS, announce
from services.registry.settings import RegistrySettings
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import options_pb2, progress_pb2
from splatmill.v1 import reconstruction_pb2 as pb

STAGES = (progress_pb2.STAGE_SFM, progress_pb2.STAGE_TRAIN, progress_pb2.STAGE_POSTPROC)
PAGE_SIZE = 50
MAX_PAGE_SIZE = 200
_ALPHABET = string.ascii_letters + string.digits
_MAX_TITLE = 200
_MAX_REQUEST_ID = 64


def create(session: Session, spec: pb.JobSpec) -> tuple[Job, bool]:
    """Makes a job that waits for its photos; answers it and whether it is new.

    Raises:
        SplatmillError: INVALID_OPTION or INVALID_REQUEST.
    """
    option_codec.check(spec.options)
    _check_length("title", spec.title, _MAX_TITLE)
    _check_length("request_id", spec.request_id, _MAX_REQUEST_ID)
    if spec.request_id:
        known = session.exec(select(Job).where(Job.request_id == spec.request_id)).first()
        if known is not None:
            return known, False
    now = time.time()
    job = Job(
        job_id=_random_id(8),
        pub_key=_random_id(10),
        request_id=spec.request_id or None,
        state=pb.JOB_STATE_UPLOADING,
        title=spec.title,
        options=spec.options.SerializeToString(),
        resumable=spec.resumable,
        hold=spec.hold,
        created_at=now,
        touched_at=now,
    )
    session.add(job)
    session.flush()
    first = pb.JobStateChanged(new_state=pb.JOB_STATE_UPLOADING)
    events.record(session, job, job_state_changed=first)
    return job, True


def _check_length(field: str, text: str, most: int) -> None:
    if len(text) > most:
        raise SplatmillError(
            Reason.INVALID_REQUEST, f"The {field} is too long.", f"At most {most} characters.", field=field
        )


def submit(
    session: Session,
    settings: RegistrySettings,
    job_id: str,
    options: options_pb2.JobOptions | None = None,
    title: str = "",
) -> Job:
    """Puts an uploaded job into the queue, ``options`` added to its own; a submitted one stays as it is.

    Raises:
        SplatmillError: JOB_NOT_FOUND, TOO_FEW_IMAGES, INVALID_OPTION, INVALID_REQUEST.
    """
    _check_length("title", title, _MAX_TITLE)
    line = lock_line(session)
    job = job_by_id(session, job_id, lock=True)
    if job.state != pb.JOB_STATE_UPLOADING:
        return job
    images = session.exec(select(func.count()).where(Image.job_id == job_id)).one()
    if images < settings.min_images:
        raise SplatmillError(
            Reason.TOO_FEW_IMAGES,
            f"A job needs at least {settings.min_images} photos; there are {images}.",
            "Add photos that overlap by two thirds or more; 20 to 60 make a good scene.", field="files",
        )  # fmt: skip
    if options is not None:
        option_codec.check(options)
        merged = options_pb2.JobOptions.FromString(job.options)
        merged.MergeFrom(options)
        job.options = merged.SerializeToString()
    job.title = title or job.title
    for stage in STAGES:
        session.add(Task(job_id=job_id, stage=stage, state=pb.TASK_STATE_BLOCKED))
    session.flush()
    enqueue(session, line, job, progress_pb2.STAGE_SFM)
    return job


def enqueue(session: Session, line: Line, job: Job, from_stage: int) -> None:
    """Puts a job at the end of the locked line, to begin with a stage."""
    line.last_number += 1
    session.add(line)
    job.queue_number = line.last_number
    job.submitted_at = time.time()
    job.started_at = job.finished_at = job.error = None
    for task in tasks_of(session, job.job_id):
        if task.stage == from_stage:
            events.set_task_state(session, job, task, pb.TASK_STATE_QUEUED)
    events.set_job_state(session, job, pb.JOB_STATE_PENDING)
    session.flush()
    leases.tell_queue(session)


def cancel(session: Session, job_id: str) -> Job:
    """Ends a job. A running stage hears of it with its next heartbeat."""
    lock_line(session)
    job = job_by_id(session, job_id, lock=True)
    if job.state in ENDED:
        return job
    waited = job.state == pb.JOB_STATE_PENDING
    for task in tasks_of(session, job_id):
        if task.state in (pb.TASK_STATE_BLOCKED, pb.TASK_STATE_QUEUED, pb.TASK_STATE_LEASED):
            task.finished_at = time.time()
            events.set_task_state(session, job, task, pb.TASK_STATE_CANCELLED)
    job.finished_at = time.time()
    events.set_job_state(session, job, pb.JOB_STATE_CANCELLED)
    if waited:
        session.flush()
        leases.tell_queue(session)
    return job


def retry(session: Session, store: ArtifactStore, request: pb.RetryJobRequest) -> Job:
    """Queues an ended job again from a stage, with other options where given.

    Raises:
        SplatmillError: JOB_NOT_FOUND, JOB_STATE_CONFLICT, INVALID_OPTION.
    """
    line = lock_line(session)
    job = job_by_id(session, request.job_id, lock=True)
    option_codec.check(request.options)
    tasks = tasks_of(session, job.job_id)
    if job.state not in ENDED or not tasks:
        raise SplatmillError(
            Reason.JOB_STATE_CONFLICT, f"Job {job.job_id} has not ended, or was never submitted.",
            "Cancel it first, or wait for its end.",
        )  # fmt: skip
    undone = [task.stage for task in tasks if task.state != pb.TASK_STATE_SUCCEEDED]
    stage = request.from_stage or (undone[0] if undone else tasks[0].stage)
    if any(task.stage < stage and task.state != pb.TASK_STATE_SUCCEEDED for task in tasks):
        raise SplatmillError(
            Reason.JOB_STATE_CONFLICT, "An earlier stage has left nothing to go on from.",
            "Retry from an earlier stage, or leave from_stage unset.", field="from_stage",
        )  # fmt: skip
    options = options_pb2.JobOptions.FromString(job.options)
    options.MergeFrom(request.options)
    job.options = options.SerializeToString()
    for task in tasks:
        if task.stage >= stage:
            task.attempt, task.not_before = 0, 0.0
            task.lease_token = task.lease_expires_at = task.progress = task.result = None
            task.started_at = task.finished_at = None
            events.set_task_state(session, job, task, pb.TASK_STATE_BLOCKED)
    artifacts.forget(session, store, job.job_id, stage)
    session.flush()
    enqueue(session, line, job, stage)
    return job


def remove(session: Session, job_id: str) -> None:
    """Deletes a job's rows; the files are the caller's."""
    lock_line(session)
    job = job_by_id(session, job_id, lock=True)
    waited = job.state == pb.JOB_STATE_PENDING
    for table in (Task, Event, LogLine, Image, Artifact):
        session.exec(delete(table).where(col(table.job_id) == job_id))
    session.delete(job)
    announce(session, job_id, TASKS)
    if waited:
        session.flush()
        leases.tell_queue(session)


def page(session: Session, states: Sequence[int], page_size: int, token: str) -> tuple[list[Job], str]:
    """A page of jobs, newest first, and the token of the next.

    Raises:
        SplatmillError: The token or the size is none of ours (INVALID_REQUEST).
    """
    if not 0 <= page_size <= MAX_PAGE_SIZE:
        raise SplatmillError(
            Reason.INVALID_REQUEST,
            f"page_size is {page_size}.",
            f"Ask for 1 to {MAX_PAGE_SIZE}.",
            field="page_size",
        )
    size = page_size or PAGE_SIZE
    query = select(Job).order_by(col(Job.created_at).desc(), col(Job.job_id).desc()).limit(size + 1)
    if states:
        query = query.where(col(Job.state).in_(list(states)))
    if token:
        created_at, job_id = _parse_token(token)
        before = (col(Job.created_at) < created_at) | (
            (col(Job.created_at) == created_at) & (col(Job.job_id) < job_id)
        )
        query = query.where(before)
    jobs = list(session.exec(query).all())
    more = jobs[size - 1] if len(jobs) > size else None
    return jobs[:size], "" if more is None else f"{more.created_at.hex()}~{more.job_id}"


def _parse_token(token: str) -> tuple[float, str]:
    try:
        created_at, job_id = token.split("~")
        return float.fromhex(created_at), job_id
    except ValueError:
        raise SplatmillError(
            Reason.INVALID_REQUEST, "The page token is none of this service.",
            "Use next_page_token as it was given.",
            field="page_token",
        ) from None  # fmt: skip


def _random_id(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
