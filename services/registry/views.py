"""Rows as the messages that clients see."""

from __future__ import annotations

from functools import cached_property

from sqlalchemy import func
from sqlmodel import Session, col, select

from services.registry import artifacts, events, history, workers
from services.registry.history import Estimator
from services.registry.keys import EVERYONE, Caller
from services.registry.leases import LINE_ORDER, count_running
from services.registry.lookups import count_photos, is_shared, tasks_of
from services.registry.models import Image, Job, Task
from splatmill.v1 import options_pb2, progress_pb2
from splatmill.v1 import reconstruction_pb2 as pb

_LOOKED_AT = 50  # running jobs
# Typical share of each stage in a job's time, for the fraction of the whole.
_WEIGHT = {progress_pb2.STAGE_SFM: 0.35, progress_pb2.STAGE_TRAIN: 0.55, progress_pb2.STAGE_POSTPROC: 0.10}


class Outlook:
    """What is the same for all jobs that are described in one transaction, read when first needed."""

    def __init__(self, session: Session, many: bool = False) -> None:
        self._session = session
        self._many = many

    @cached_property
    def estimator(self) -> Estimator:
        """What stages took lately."""
        return Estimator(self._session)

    @cached_property
    def _positions(self) -> dict[str, int]:
        query = select(Job.job_id).where(Job.state == pb.JOB_STATE_PENDING).order_by(*LINE_ORDER)
        return {job_id: number for number, job_id in enumerate(self._session.exec(query).all(), start=1)}

    def position(self, job: Job) -> int:
        """1 for the next job to start; 0 for one that does not wait."""
        if job.state != pb.JOB_STATE_PENDING:
            return 0
        return self._positions.get(job.job_id, 0) if self._many else queue_position(self._session, job)

    @cached_property
    def running_seconds(self) -> float | None:
        """What is left of the jobs that run, together; None while something is unknown."""
        query = select(Job).where(Job.state == pb.JOB_STATE_PROCESSING).limit(_LOOKED_AT)
        left = [
            self.estimator.remaining_seconds(
                history.workload(self._session, job), tasks_of(self._session, job.job_id)
            )
            for job in self._session.exec(query).all()
        ]
        return None if None in left else sum(seconds for seconds in left if seconds is not None)

    @cached_property
    def usual_seconds(self) -> float | None:
        """What a waiting job is expected to take."""
        mean = select(func.avg(Job.expected_seconds)).where(Job.state == pb.JOB_STATE_PENDING)
        seconds: float | None = self._session.exec(mean).one()
        return seconds

    @cached_property
    def lines(self) -> int:
        """How many jobs go on side by side: as many as there are workers of the slowest stage."""
        running = min(_LOOKED_AT, count_running(self._session))
        return max(1, min(running, workers.live_count(self._session, progress_pb2.STAGE_TRAIN)))


def job_message(session: Session, job: Job, with_log: bool = True, outlook: Outlook | None = None) -> pb.Job:
    """A job as everyone sees it."""
    outlook = outlook or Outlook(session)
    tasks = tasks_of(session, job.job_id)
    message = pb.Job(
        job_id=job.job_id,
        pub_key=job.pub_key,
        state=pb.JobState.ValueType(job.state),
        title=job.title,
        options=options_pb2.JobOptions.FromString(job.options),
        image_count=count_photos(session, job.job_id),
        queue_position=outlook.position(job),
        tasks=[task_message(task) for task in tasks],
        last_sequence=job.last_sequence,
        priority=-job.rank,
        shared=is_shared(job),
        has_scene=artifacts.has_scene(session, job.job_id),
        expected_seconds=job.expected_seconds,
    )
    for name in ("created_at", "submitted_at", "started_at", "finished_at"):
        _set_time(message, name, getattr(job, name))
    if job.share_expires_at is not None:
        message.share_expires_at.FromNanoseconds(int(job.share_expires_at * 1e9))
    _set_progress(message)
    if job.state in (pb.JOB_STATE_PENDING, pb.JOB_STATE_PROCESSING):
        seconds = _seconds_left(session, job, tasks, message.queue_position, outlook)
        if seconds is not None:
            message.eta_seconds = seconds
    if job.error is not None:
        message.error.CopyFrom(progress_pb2.ErrorDetail.FromString(job.error))
    if message.state == pb.JOB_STATE_COMPLETED:
        message.gaussian_count = int(message.tasks[-1].metrics.get("gaussian_count", 0))
    if with_log:
        message.log_tail.extend(_log_tail(session, message))
    return message


def task_message(task: Task) -> pb.Task:
    """A stage of a job."""
    message = pb.Task(
        stage=progress_pb2.Stage.ValueType(task.stage),
        state=pb.TaskState.ValueType(task.state),
        attempt=task.attempt,
        worker_id=task.worker_id,
    )
    for name in ("started_at", "finished_at"):
        _set_time(message, name, getattr(task, name))
    if task.progress is not None:
        message.progress.CopyFrom(progress_pb2.StageProgress.FromString(task.progress))
    if task.result is not None:
        message.metrics.update(progress_pb2.StageResult.FromString(task.result).metrics)
    return message


def queue_position(session: Session, job: Job) -> int:
    """1 for the next job to start; 0 for one that does not wait."""
    if job.state != pb.JOB_STATE_PENDING:
        return 0
    same = col(Job.rank) == job.rank
    round_of = col(Job.turn)
    before = (
        (col(Job.rank) < job.rank)
        | (same & (round_of < job.turn))
        | (same & (round_of == job.turn) & (col(Job.queue_number) <= job.queue_number))
    )
    return session.exec(select(func.count()).where(Job.state == pb.JOB_STATE_PENDING, before)).one()


def _seconds_left(
    session: Session, job: Job, tasks: list[Task], position: int, outlook: Outlook
) -> float | None:
    """Time until a job is done, with the wait before it; None while something is unknown."""
    own = outlook.estimator.remaining_seconds(history.workload(session, job), tasks)
    if own is None or job.state != pb.JOB_STATE_PENDING:
        return own
    usual = outlook.usual_seconds or own
    running = outlook.running_seconds if outlook.running_seconds is not None else usual
    return own + (running + (position - 1) * usual) / outlook.lines


def queue_message(session: Session, max_concurrent: int, caller: Caller = EVERYONE) -> pb.GetQueueResponse:
    """What runs and what waits; of the jobs of others a caller sees that they are there."""
    answer = pb.GetQueueResponse(max_concurrent=max_concurrent)
    for state, jobs in (
        (pb.JOB_STATE_PROCESSING, answer.running_jobs),
        (pb.JOB_STATE_PENDING, answer.pending_jobs),
    ):
        query = select(Job.job_id, Job.owner, Job.created_at).where(Job.state == state).order_by(*LINE_ORDER)
        for number, (job_id, owner, created_at) in enumerate(session.exec(query).all(), start=1):
            known = caller.sees_all or owner == caller.key_id
            row = jobs.add(job_id=job_id if known else "", position=number)
            if state == pb.JOB_STATE_PROCESSING:
                row.position = 0
            row.created_at.FromNanoseconds(int(created_at * 1e9))
    return answer


def image_message(image: Image) -> pb.StoredImage:
    """A photo, or a mask, that is stored whole."""
    return pb.StoredImage(
        filename=image.filename,
        size_bytes=image.size_bytes,
        sha256=image.sha256,
        width=image.width,
        height=image.height,
    )


def _set_progress(message: pb.Job) -> None:
    done = 0.0
    for task in message.tasks:
        if task.state == pb.TASK_STATE_SUCCEEDED:
            done += _WEIGHT[task.stage]
        elif task.state == pb.TASK_STATE_LEASED:
            done += _WEIGHT[task.stage] * task.progress.fraction
            if task.progress.HasField("eta_seconds"):
                # Unless history knows better, later stages are guessed from the present one.
                later = sum(_WEIGHT[t.stage] for t in message.tasks if t.stage > task.stage)
                spent = (1 - task.progress.fraction) * _WEIGHT[task.stage]
                ratio = task.progress.eta_seconds / spent if spent > 0.005 else 0.0
                message.eta_seconds = task.progress.eta_seconds + later * ratio
    message.fraction = min(1.0, done)


def _log_tail(session: Session, message: pb.Job) -> list[str]:
    lines = events.log_tail(session, message.job_id)
    if message.state == pb.JOB_STATE_PENDING:
        waiting = session.exec(select(func.count()).where(Job.state == pb.JOB_STATE_PENDING)).one()
        running = count_running(session)
        lines.append(f">> [QUEUE] position {message.queue_position} of {waiting}, {running} running")
    return lines


def _set_time(message: pb.Job | pb.Task, name: str, seconds: float | None) -> None:
    if seconds is not None:
        getattr(message, name).FromNanoseconds(int(seconds * 1e9))
