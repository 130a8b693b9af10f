"""What the owner of a key may use, and what it has used."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from sqlalchemy import func
from sqlmodel import Session, col, select

from services.registry.models import ApiKey, Artifact, GpuUsage, Image, Job, Kind, Task
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import reconstruction_pb2 as pb

_CPU = ("", "cpu")


def check_submission(session: Session, owner: str) -> None:
    """Lets an owner's job into the queue.

    Raises:
        SplatmillError: Too many of its jobs wait, or its GPU time is used up (QUOTA_EXCEEDED).
    """
    key = _key(session, owner)
    if key is None:
        return
    if key.max_waiting_jobs is not None and waiting_jobs(session, owner) >= key.max_waiting_jobs:
        raise _exceeded(
            f"This key may have {key.max_waiting_jobs} jobs waiting at once, and has.",
            "Wait until one of them has begun, or cancel one.",
        )
    if key.max_gpu_minutes is not None and gpu_seconds(session, owner) >= 60 * key.max_gpu_minutes:
        raise _exceeded(
            f"This key's {key.max_gpu_minutes:g} GPU minutes of today are used up.",
            "Submit it after midnight, UTC.",
        )


def check_room(session: Session, owner: str, adding: int = 0) -> None:
    """Lets an owner store more.

    Args:
        session: An open transaction.
        owner: Whose.
        adding: Bytes that are about to be stored.

    Raises:
        SplatmillError: The owner's files would take too much room (QUOTA_EXCEEDED).
    """
    key = _key(session, owner)
    if key is None or key.max_bytes is None or stored_bytes(session, owner) + adding <= key.max_bytes:
        return
    raise _exceeded(
        f"This key may store {key.max_bytes / (1 << 20):,.0f} MiB, and that is full.", "Delete old jobs."
    )


def waiting_jobs(session: Session, owner: str) -> int:
    """Jobs of an owner that have not begun."""
    return session.exec(
        select(func.count()).where(Job.owner == owner, Job.state == pb.JOB_STATE_PENDING)
    ).one()


def stored_bytes(session: Session, owner: str) -> int:
    """Photos and published files of an owner's jobs."""
    total = 0
    for table in (Image, Artifact):
        query = select(func.coalesce(func.sum(table.size_bytes), 0)).join(
            Job, col(Job.job_id) == col(table.job_id)
        )
        if table is Image:
            query = query.where(col(Job.expired).op("&")(int(Kind.PHOTOS)) == 0)
        total += int(session.exec(query.where(Job.owner == owner)).one())
    return total


def gpu_seconds(session: Session, owner: str) -> float:
    """GPU time that an owner has used today."""
    usage = session.get(GpuUsage, (owner, _today()))
    return usage.seconds if usage is not None else 0.0


def charge(session: Session, job: Job, task: Task) -> None:
    """Counts the GPU time of an attempt that ends now, however it ends; the job must be locked."""
    if task.device in _CPU or task.started_at is None or not job.owner:
        return
    usage = session.get(GpuUsage, (job.owner, _today()), with_for_update=True)
    if usage is None:
        usage = GpuUsage(owner=job.owner, day=_today())
    usage.seconds += max(0.0, time.time() - task.started_at)
    session.add(usage)


def _key(session: Session, owner: str) -> ApiKey | None:
    return session.get(ApiKey, owner) if owner else None


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


def _exceeded(message: str, remedy: str) -> SplatmillError:
    return SplatmillError(Reason.QUOTA_EXCEEDED, message, remedy)
