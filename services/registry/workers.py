"""Which workers there are."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sqlalchemy import func
from sqlmodel import Session, col, delete, select

from services.registry.models import Task, Worker
from splatmill.v1 import progress_pb2
from splatmill.v1 import reconstruction_pb2 as pb

LIVE_SECONDS = 90.0
"""A worker asks at least every half minute, or sends heartbeats."""
_FORGET_SECONDS = 24 * 3600.0
_NOTE_SECONDS = 15.0


def note(
    session: Session, worker_id: str, stages: Sequence[int], device: str, training_device: bytes | None = None
) -> None:
    """Notes that a worker has asked for work; now and then only, to spare the database."""
    now = time.time()
    row = session.get(Worker, worker_id)
    known = row is not None and (row.device, row.training_device) == (device, training_device)
    if row is not None and known and now - row.last_seen_at < _NOTE_SECONDS:
        return
    if row is None:
        row = Worker(worker_id=worker_id, stages="", first_seen_at=now, last_seen_at=now)
    row.stages = " ".join(map(str, sorted(set(stages))))
    row.device, row.training_device, row.last_seen_at = device, training_device, now
    session.add(row)


def forget_old(session: Session) -> None:
    """Removes workers that have not been heard of for a day."""
    session.exec(delete(Worker).where(col(Worker.last_seen_at) < time.time() - _FORGET_SECONDS))


def live_count(session: Session, stage: int) -> int:
    """Workers of a stage that wait for work or are at it."""
    limit = time.time() - LIVE_SECONDS
    rows = session.exec(select(Worker.worker_id, Worker.stages).where(col(Worker.last_seen_at) >= limit))
    live = {worker_id for worker_id, stages in rows if str(stage) in stages.split()}
    return len(live.union(_at_work(session, stage)))


def live(session: Session, stage: int) -> list[Worker]:
    """The same workers, as far as they are known by more than their name."""
    since, at_work = col(Worker.last_seen_at) >= time.time() - LIVE_SECONDS, _at_work(session, stage)
    rows = session.exec(select(Worker).where(since | col(Worker.worker_id).in_(at_work)))
    return [row for row in rows if str(stage) in row.stages.split()]


def _at_work(session: Session, stage: int) -> Sequence[str]:
    query = select(Task.worker_id).where(Task.stage == stage, Task.state == pb.TASK_STATE_LEASED)
    return session.exec(query).all()


def listed(session: Session) -> list[pb.WorkerInfo]:
    """Workers heard of within a day, by name, with what they are at."""
    leased = select(Task).where(Task.state == pb.TASK_STATE_LEASED)
    tasks = {task.worker_id: task for task in session.exec(leased).all()}
    found = []
    for row in session.exec(select(Worker).order_by(func.lower(Worker.worker_id))).all():
        info = pb.WorkerInfo(
            worker_id=row.worker_id,
            stages=[progress_pb2.Stage.ValueType(int(stage)) for stage in row.stages.split()],
            device=row.device,
        )
        info.first_seen_at.FromNanoseconds(int(row.first_seen_at * 1e9))
        last = row.last_seen_at
        task = tasks.get(row.worker_id)
        if task is not None:
            info.job_id, info.stage = task.job_id, progress_pb2.Stage.ValueType(task.stage)
            last = max(last, task.started_at or 0.0)
        info.last_seen_at.FromNanoseconds(int(last * 1e9))
        found.append(info)
    return found
