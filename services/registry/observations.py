"""Figures of the queue: counted after commits, or read when somebody asks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import case, func
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from services.common.tracing import span
from services.registry import workers
from services.registry.models import Job, Task
from splatmill.errors import SplatmillError
from splatmill.v1 import progress_pb2
from splatmill.v1 import reconstruction_pb2 as pb

STAGES = {
    progress_pb2.STAGE_SFM: "sfm",
    progress_pb2.STAGE_TRAIN: "train",
    progress_pb2.STAGE_POSTPROC: "postproc",
}
_WAITING = {
    pb.TASK_STATE_BLOCKED: "blocked",
    pb.TASK_STATE_QUEUED: "queued",
    pb.TASK_STATE_LEASED: "leased",
}

TASK_SECONDS = Histogram(
    "splatmill_task_duration_seconds", "Time from lease to end of attempts.", ("stage", "outcome"),
    buckets=(1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200),
)  # fmt: skip
EXPIRED = Counter("splatmill_lease_expired", "Leases whose worker was not heard of.", ("stage",))
EXPECTED_RATIO = Histogram(
    "splatmill_job_expected_ratio", "What jobs took over what they were expected to take.",
    buckets=(0.25, 0.5, 0.67, 0.8, 0.9, 1.1, 1.25, 1.5, 2, 4),
)  # fmt: skip


def after_commit(session: Session, observe: Callable[[], None]) -> None:
    """Counts something once the transaction is committed, and not if it is undone."""
    session.info.setdefault("observations", []).append(observe)


def observe_all(session: Session) -> None:
    """Counts what was noted."""
    for observe in session.info.get("observations", ()):
        observe()


def note_start(session: Session, job: Job) -> None:
    """A job leaves the line: its wait is a span of its trace."""

    def tell() -> None:
        with span("queue", job.trace, job.submitted_at, job_id=job.job_id):
            pass

    after_commit(session, tell)


def note_end(session: Session, task: Task, outcome: str) -> None:
    """An attempt ends: ``succeeded``, ``failed``, ``expired``, ``released`` or ``cancelled``."""
    if task.started_at is None:
        return
    seconds, stage = time.time() - task.started_at, STAGES[progress_pb2.Stage.ValueType(task.stage)]
    after_commit(session, lambda: TASK_SECONDS.labels(stage, outcome).observe(seconds))
    if outcome == "expired":
        after_commit(session, EXPIRED.labels(stage).inc)


def note_job_done(session: Session, job: Job) -> None:
    """A job is completed: what it took beside what was expected."""
    if job.expected_seconds and job.started_at is not None and job.finished_at is not None:
        ratio = (job.finished_at - job.started_at) / job.expected_seconds
        after_commit(session, lambda: EXPECTED_RATIO.observe(ratio))


class QueueCollector(Collector):
    """Reads the queue when it is scraped, so that every replica tells the same.

    Args:
        run: Runs work in a transaction.
    """

    def __init__(self, run: Callable[[Callable[[Session], Any]], Any]) -> None:
        self._run = run

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Nothing: asking the database for it would be all the work."""
        return iter(())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The figures now; none while the database is away."""
        try:
            found: list[GaugeMetricFamily] = self._run(_read)
        except SplatmillError:
            return
        yield from found


def _read(session: Session) -> list[GaugeMetricFamily]:
    tasks = GaugeMetricFamily("splatmill_queue_tasks", "Tasks that are not done.", labels=("stage", "state"))
    query = select(Task.stage, Task.state, func.count()).where(col(Task.state).in_(_WAITING))
    grouped = session.exec(query.group_by(col(Task.stage), col(Task.state)))
    counts = {(stage, state): count for stage, state, count in grouped}
    for stage, name in STAGES.items():
        for state, word in _WAITING.items():
            tasks.add_metric((name, word), counts.get((stage, state), 0))
    oldest = GaugeMetricFamily(
        "splatmill_queue_oldest_age_seconds", "Wait of the task that has waited longest.", labels=("stage",)
    )
    alive = GaugeMetricFamily("splatmill_workers", "Workers heard of lately.", labels=("stage",))
    for stage, name in STAGES.items():
        oldest.add_metric((name,), _oldest_age(session, stage))
        alive.add_metric((name,), workers.live_count(session, stage))
    jobs = GaugeMetricFamily("splatmill_jobs", "Jobs.", labels=("state",))
    states = {state: n for state, n in session.exec(select(Job.state, func.count()).group_by(col(Job.state)))}
    for word, number in pb.JobState.items():
        if number:
            jobs.add_metric((word.removeprefix("JOB_STATE_").lower(),), states.get(number, 0))
    return [tasks, oldest, alive, jobs]


def _oldest_age(session: Session, stage: int) -> float:
    """Since when a task waits is the last of what let it into the line.

    That its job was submitted, or again; that the stage before it was done; that its last
    attempt ended, and the pause after it.
    """
    before = aliased(Task)
    since = _later(col(Job.submitted_at), col(Task.not_before))
    query = select(func.min(_later(since, func.coalesce(before.finished_at, 0.0))))
    query = query.select_from(Task).join(Job, col(Task.job_id) == col(Job.job_id))
    query = query.outerjoin(before, (col(Task.job_id) == before.job_id) & (before.stage == stage - 1))
    first = session.exec(query.where(Task.stage == stage, Task.state == pb.TASK_STATE_QUEUED)).one()
    return max(0.0, time.time() - first) if first is not None else 0.0


def _later(one: Any, other: Any) -> Any:
    # The function for it has different names on SQLite and PostgreSQL.
    return case((one >= other, one), else_=other)
