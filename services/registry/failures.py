"""Attempts that failed, for whoever wants to know why."""

from __future__ import annotations

from sqlmodel import Session, col, select

from services.registry.models import ErrorLog
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import progress_pb2
from splatmill.v1 import reconstruction_pb2 as pb

_LIMIT = 100
_MAX_LIMIT = 1000


def listed(session: Session, job_id: str = "", limit: int = 0) -> list[pb.FailedAttempt]:
    """Failed attempts, newest first.

    Args:
        session: An open transaction.
        job_id: Of one job; empty for all.
        limit: At most so many; 0 for a usual number.

    Raises:
        SplatmillError: The limit is out of range (INVALID_REQUEST).
    """
    if not 0 <= limit <= _MAX_LIMIT:
        raise SplatmillError(
            Reason.INVALID_REQUEST, f"limit is {limit}.", f"Ask for 1 to {_MAX_LIMIT}.", field="limit"
        )
    query = select(ErrorLog).order_by(col(ErrorLog.id).desc()).limit(limit or _LIMIT)
    if job_id:
        query = query.where(ErrorLog.job_id == job_id[:64])
    found = []
    for row in session.exec(query).all():
        attempt = pb.FailedAttempt(
            job_id=row.job_id,
            stage=progress_pb2.Stage.ValueType(row.stage),
            attempt=row.attempt,
            worker_id=row.worker_id,
            error=progress_pb2.ErrorDetail.FromString(row.error),
        )
        attempt.created_at.FromNanoseconds(int(row.created_at * 1e9))
        found.append(attempt)
    return found
