"""What people do with jobs: create, submit, cancel, retry, delete, list."""

from __future__ import annotations

import hashlib
import secrets
import string
import time
from collections.abc import Sequence

from sqlalchemy import func
from sqlmodel import Session, col, delete, select

from services.common import option_codec
from services.registry import events, history, observations, quotas, retention
from services.registry.history import STAGES, Estimator
from services.registry.keys import EVERYONE, Caller
from services.registry.lookups import ENDED, count_photos, job_by_id, lock_line, tasks_of
from services.registry.models import Artifact, ErrorLog, Event, Image, Job, Line, LogLine, Task
from services.registry.notify import TASKS, announce
from services.registry.settings import RegistrySettings
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import options_pb2, progress_pb2
from splatmill.v1 import reconstruction_pb2 as pb

PAGE_SIZE = 50
MAX_PAGE_SIZE = 200
_ALPHABET = string.ascii_letters + string.digits
_MAX_TITLE = 200
_MAX_REQUEST_ID = 64
_MAX_PRIORITY = 100
_LONGEST_SHARE = 100 * 365 * 86_400


def create(
    session: Session, spec: pb.JobSpec, caller: Caller = EVERYONE, trace: str = ""
) -> tuple[Job, bool]:
    """Makes a job that waits for its photos; answers it and whether it is new.

    Raises:
        SplatmillError: INVALID_OPTION, INVALID_REQUEST or PERMISSION_DENIED.
    """
    option_codec.check(spec.options)
    _check_length("title", spec.title, _MAX_TITLE)
    _check_length("request_id", spec.request_id, _MAX_REQUEST_ID)
    _check_priority(spec.priority, caller)
    if spec.request_id and (known := by_request_id(session, spec.request_id, caller)) is not None:
        return known, False
    now = time.time()
    job = Job(
        job_id=_random_id(8),
        pub_key=_random_id(10),
        request_id=_own_request_id(spec.request_id, caller) if spec.request_id else None,
        owner=caller.key_id,
        rank=-spec.priority,
        trace=trace,
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


def by_request_id(session: Session, request_id: str, caller: Caller = EVERYONE) -> Job | None:
    """The caller's job that was made with a request_id."""
    own = _own_request_id(request_id, caller)
    return session.exec(select(Job).where(Job.request_id == own)).first()


def _own_request_id(request_id: str, caller: Caller) -> str:
    """As it is kept: different callers may choose the same."""
    if not caller.key_id:
        return request_id[:_MAX_REQUEST_ID]
    return hashlib.sha256(f"{caller.key_id} {request_id}".encode()).hexdigest()


def _check_priority(priority: int, caller: Caller) -> None:
    if abs(priority) > _MAX_PRIORITY:
        raise SplatmillError(
            Reason.INVALID_REQUEST, f"The priority {priority} is out of range.",
            f"Choose one from {-_MAX_PRIORITY} to {_MAX_PRIORITY}.", field="priority",
        )  # fmt: skip
    if priority > 0 and not caller.sees_all:
        raise SplatmillError(
            Reason.PERMISSION_DENIED, "Priorities above 0 are for administrators.",
            "Leave it out.", field="priority",
        )  # fmt: skip


def _check_length(field: str, text: str, most: int) -> None:
    if len(text) > most:
        raise SplatmillError(
            Reason.INVALID_REQUEST, f"The {field} is too long.", f"At most {most} characters.", field=field
        )


def submit(
    session: Session, settings: RegistrySettings, request: pb.SubmitJobRequest, caller: Caller = EVERYONE
) -> Job:
    """Puts an uploaded job into the queue, with what the request adds; a submitted one stays as it is.

    Raises:
        SplatmillError: JOB_NOT_FOUND, TOO_FEW_IMAGES, INVALID_OPTION, INVALID_REQUEST,
            QUOTA_EXCEEDED, PERMISSION_DENIED.
    """
    job_id = request.job_id
    _check_length("title", request.title, _MAX_TITLE)
    _check_priority(request.priority, caller)
    option_codec.check(request.options)
    line = lock_line(session)
    job = job_by_id(session, job_id, lock=True)
    if job.state != pb.JOB_STATE_UPLOADING:
        return job
    photos = count_photos(session, job_id)
    if photos < settings.min_images:
        raise SplatmillError(
            Reason.TOO_FEW_IMAGES,
            f"A job needs at least {settings.min_images} photos; there are {photos}.",
            "Add photos that overlap by two thirds or more; 20 to 60 make a good scene.", field="files",
        )  # fmt: skip
    merged = options_pb2.JobOptions.FromString(job.options)
    merged.MergeFrom(request.options)
    job.options = merged.SerializeToString()
    job.title = request.title or job.title
    if request.HasField("priority"):
        job.rank = -request.priority
    quotas.check_submission(session, job.owner)
    for stage in STAGES:
        session.add(Task(job_id=job_id, stage=stage, state=pb.TASK_STATE_BLOCKED))
    session.flush()
    enqueue(session, line, job, progress_pb2.STAGE_SFM)
    return job


def enqueue(session: Session, line: Line, job: Job, from_stage: int) -> None:
    """Puts a job into the locked line, to begin with a stage.

    Owners take turns: a job comes a round behind its owner's last one, and not before the
    round that is being served. Among those of a round the one that came first is first.
    """
    last = session.exec(
        select(func.max(Job.turn)).where(
            Job.owner == job.owner, Job.state == pb.JOB_STATE_PENDING, Job.rank == job.rank
        )
    ).one()
    line.last_number += 1
    session.add(line)
    job.queue_number = line.last_number
    job.turn = max(line.turn, last or 0) + 1
    job.submitted_at = time.time()
    job.started_at = job.finished_at = job.error = None
    job.expected_seconds = Estimator(session).job_seconds(
        history.workload(session, job), [stage for stage in STAGES if stage >= from_stage]
    )
    for task in tasks_of(session, job.job_id):
        if task.stage == from_stage:
            events.set_task_state(session, job, task, pb.TASK_STATE_QUEUED)
    job.told_position = 0
    line.moved = True
    events.set_job_state(session, job, pb.JOB_STATE_PENDING)


def cancel(session: Session, job_id: str) -> Job:
    """Ends a job. A running stage hears of it with its next heartbeat."""
    line = lock_line(session)
    job = job_by_id(session, job_id, lock=True)
    if job.state in ENDED:
        return job
    line.moved = line.moved or job.state == pb.JOB_STATE_PENDING
    for task in tasks_of(session, job_id):
        if task.state == pb.TASK_STATE_LEASED:
            quotas.charge(session, job, task)
            observations.note_end(session, task, "cancelled")
        if task.state in (pb.TASK_STATE_BLOCKED, pb.TASK_STATE_QUEUED, pb.TASK_STATE_LEASED):
            task.finished_at = time.time()
            events.set_task_state(session, job, task, pb.TASK_STATE_CANCELLED)
    job.finished_at = time.time()
    events.set_job_state(session, job, pb.JOB_STATE_CANCELLED)
    return job


def retry(session: Session, request: pb.RetryJobRequest) -> Job:
    """Queues an ended job again from a stage, with other options where given.

    What it has published stays until the stages that run again publish in its place.

    Raises:
        SplatmillError: JOB_NOT_FOUND, JOB_STATE_CONFLICT, INVALID_OPTION, QUOTA_EXCEEDED.
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
    retention.check_retry(job, stage)
    quotas.check_submission(session, job.owner)
    options = options_pb2.JobOptions.FromString(job.options)
    options.MergeFrom(request.options)
    job.options = options.SerializeToString()
    for task in tasks:
        if task.stage >= stage:
            task.attempt, task.not_before = 0, 0.0
            task.lease_token = task.lease_expires_at = task.progress = task.result = None
            task.started_at = task.finished_at = None
            events.set_task_state(session, job, task, pb.TASK_STATE_BLOCKED)
    session.flush()
    enqueue(session, line, job, stage)
    return job


def remove(session: Session, job_id: str) -> None:
    """Deletes a job's rows; the files are the caller's."""
    line = lock_line(session)
    job = job_by_id(session, job_id, lock=True)
    line.moved = line.moved or job.state == pb.JOB_STATE_PENDING
    for task in tasks_of(session, job_id):
        if task.state == pb.TASK_STATE_LEASED:
            quotas.charge(session, job, task)
    session.flush()
    for table in (Task, Event, LogLine, Image, Artifact, ErrorLog):
        session.exec(delete(table).where(col(table.job_id) == job_id))
    session.delete(job)
    announce(session, job_id, TASKS)


def update_share(session: Session, request: pb.UpdateShareRequest) -> Job:
    """Opens, closes or renews a job's share link.

    Raises:
        SplatmillError: JOB_NOT_FOUND or INVALID_REQUEST.
    """
    job = job_by_id(session, request.job_id, lock=True)
    if request.action not in (pb.SHARE_ACTION_OPEN, pb.SHARE_ACTION_CLOSE, pb.SHARE_ACTION_RENEW):
        raise SplatmillError(
            Reason.INVALID_REQUEST, "There is nothing said to be done with the link.",
            "Set action to open, close or renew.", field="action",
        )  # fmt: skip
    job.share_expires_at = None
    if request.HasField("valid_for"):
        seconds = request.valid_for.seconds + request.valid_for.nanos * 1e-9
        if not 0 < seconds <= _LONGEST_SHARE:
            raise SplatmillError(
                Reason.INVALID_REQUEST, f"A link cannot work for {seconds:g} s.",
                "Name a time to come, at most a hundred years.", field="valid_for",
            )  # fmt: skip
        job.share_expires_at = time.time() + seconds
    job.shared = request.action != pb.SHARE_ACTION_CLOSE
    if request.action == pb.SHARE_ACTION_RENEW:
        job.pub_key = _random_id(10)
    session.add(job)
    return job


def page(
    session: Session, states: Sequence[int], page_size: int, token: str, caller: Caller = EVERYONE
) -> tuple[list[Job], str]:
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
    if not caller.sees_all:
        query = query.where(Job.owner == caller.key_id)
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
