"""A job's events: numbered without gaps, in the same transaction as what they tell of."""

from __future__ import annotations

import time
from typing import Any

from sqlmodel import Session, col, delete, select

from services.registry.lookups import ENDED
from services.registry.models import Event, Job, LogLine, Task
from services.registry.notify import TASKS, announce
from splatmill.v1 import progress_pb2
from splatmill.v1 import reconstruction_pb2 as pb

LOG_TAIL = 50


def record(session: Session, job: Job, **payload: Any) -> None:
    """Adds an event, and wakes those who watch the job when it is committed.

    Args:
        session: An open transaction that has changed, or locked, the job's row.
        job: Whose event.
        payload: One field of JobEvent's oneof.
    """
    job.last_sequence += 1
    event = pb.JobEvent(sequence=job.last_sequence, **payload)
    event.created_at.FromNanoseconds(int(time.time() * 1e9))
    session.add(job)
    session.add(Event(job_id=job.job_id, sequence=job.last_sequence, payload=event.SerializeToString()))
    announce(session, job.job_id)


def read(session: Session, job_id: str, after: int, limit: int = 500) -> list[pb.JobEvent]:
    """Events behind ``after``, in order."""
    query = select(Event.payload).where(Event.job_id == job_id, Event.sequence > after)
    rows = session.exec(query.order_by(col(Event.sequence)).limit(limit))
    return [pb.JobEvent.FromString(payload) for payload in rows]


def set_job_state(
    session: Session, job: Job, state: pb.JobState.ValueType, error: progress_pb2.ErrorDetail | None = None
) -> None:
    """Changes a job's state and tells of it."""
    change = pb.JobStateChanged(old_state=pb.JobState.ValueType(job.state), new_state=state, error=error)
    job.state = state
    if state in ENDED:  # there is room for another
        announce(session, TASKS)
        trim_log(session, job.job_id)
    record(session, job, job_state_changed=change)


def set_task_state(
    session: Session,
    job: Job,
    task: Task,
    state: pb.TaskState.ValueType,
    error: progress_pb2.ErrorDetail | None = None,
) -> None:
    """Changes a task's state and tells of it."""
    change = pb.TaskStateChanged(
        stage=progress_pb2.Stage.ValueType(task.stage),
        old_state=pb.TaskState.ValueType(task.state),
        new_state=state,
        attempt=task.attempt,
        error=error,
        worker_id=task.worker_id,
    )
    task.state = state
    if state == pb.TASK_STATE_QUEUED:
        announce(session, TASKS)
    session.add(task)
    record(session, job, task_state_changed=change)


def add_log_lines(session: Session, job_id: str, lines: list[str]) -> None:
    """Adds to what ``log_tail`` answers."""
    # PostgreSQL's texts hold no NUL, and what a stage logs is not for us to refuse.
    session.add_all(
        LogLine(job_id=job_id, text=line.replace("\0", "\N{REPLACEMENT CHARACTER}")) for line in lines
    )


def trim_log(session: Session, job_id: str, keep: int = LOG_TAIL) -> None:
    """Removes all but the last lines: the whole log is a file."""
    session.flush()
    kept = select(LogLine.id).where(LogLine.job_id == job_id).order_by(col(LogLine.id).desc()).limit(keep)
    session.exec(delete(LogLine).where(col(LogLine.job_id) == job_id, col(LogLine.id).not_in(kept)))


def log_tail(session: Session, job_id: str) -> list[str]:
    """The last lines of a job's log, oldest first."""
    query = (
        select(LogLine.text).where(LogLine.job_id == job_id).order_by(col(LogLine.id).desc()).limit(LOG_TAIL)
    )
    return list(reversed(session.exec(query).all()))
