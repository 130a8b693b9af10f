"""How long stages take here, and so how long a job will take.

An estimate is the weighted median over stages done before on the same kind of device,
each scaled to the work at hand; those of about the same size, and newer ones, weigh more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import func
from sqlmodel import Session, col, delete, select

from services.registry.lookups import OF_MASK
from services.registry.models import Image, Job, StageTime, Task
from splatmill.v1 import options_pb2, progress_pb2

STAGES = (progress_pb2.STAGE_SFM, progress_pb2.STAGE_TRAIN, progress_pb2.STAGE_POSTPROC)
_ROWS = 60
_KEPT_ROWS = 5_000
_RECENCY = 0.97
_ITERATIONS = "iterations"
_OF_NO_WEIGHT = ("preset", "seed", "background", "test_every")


@dataclass(frozen=True)
class Workload:
    """What a job asks of the stages."""

    photos: int
    megapixels: float
    """Of all photos together."""
    iterations: float = 0.0
    """Of the training; 0 when the worker chooses."""
    variant: str = ""
    """As ``variant_of`` names it, or ``iterations``: runs of different ones do not compare."""

    def size(self, stage: int) -> float:
        """Work of a stage, in units of its own."""
        if stage == progress_pb2.STAGE_SFM:
            # Features grow with the photos, pairs to match with their square: in between.
            return math.sqrt(max(1.0, self.megapixels)) * max(1, self.photos)
        if stage == progress_pb2.STAGE_TRAIN and self.variant == _ITERATIONS:
            return max(1.0, self.iterations)
        return 1.0


def workload(session: Session, job: Job) -> Workload:
    """What a job asks for."""
    query = select(func.count(), func.sum(col(Image.width) * col(Image.height) / 1e6))
    photos, megapixels = session.exec(query.where(Image.job_id == job.job_id, ~OF_MASK)).one()
    training = options_pb2.JobOptions.FromString(job.options).training
    variant = variant_of(training)
    if training.HasField("iterations"):
        return Workload(photos, float(megapixels or 0), float(training.iterations), _ITERATIONS)
    return Workload(photos, float(megapixels or 0), 0.0, variant)


def variant_of(training: options_pb2.TrainingOptions) -> str:
    """Names what makes trainings take as long as each other: the preset, and what was set beside it.

    Empty for the standard preset, which is also that of those who name none.
    """
    parts: list[str] = []
    for field, value in training.ListFields():
        if field.name == "preset" and value not in (
            options_pb2.PRESET_UNSPECIFIED,
            options_pb2.PRESET_STANDARD,
        ):
            parts.insert(0, f"preset {value}")
        elif field.name not in _OF_NO_WEIGHT:
            parts.append(f"{field.name} {value}")
    return " ".join(parts)


def record(session: Session, job: Job, task: Task) -> None:
    """Notes what a stage that has succeeded took, unless an earlier attempt did some of its work."""
    if task.attempt != 1 or task.started_at is None or task.finished_at is None:
        return
    load = workload(session, job)
    row = StageTime(
        stage=task.stage, device=task.device, photos=load.photos, megapixels=load.megapixels,
        iterations=load.iterations, variant=load.variant,
        seconds=task.finished_at - task.started_at, finished_at=task.finished_at,
    )  # fmt: skip
    session.add(row)


def forget_old(session: Session) -> None:
    """Removes all but the newest rows."""
    newest = session.exec(select(func.max(StageTime.id))).one() or 0
    session.exec(delete(StageTime).where(col(StageTime.id) <= newest - _KEPT_ROWS))


class Estimator:
    """What stages took lately.

    Args:
        session: An open transaction; it is read once.
    """

    def __init__(self, session: Session) -> None:
        self._rows: dict[int, Sequence[StageTime]] = {}
        for stage in STAGES:
            query = select(StageTime).where(StageTime.stage == stage)
            self._rows[stage] = session.exec(query.order_by(col(StageTime.id).desc()).limit(_ROWS)).all()

    def stage_seconds(self, stage: int, load: Workload, device: str = "") -> float | None:
        """What a stage will take; None while nothing is known.

        Args:
            stage: Which.
            load: What is asked of it.
            device: What its worker computes on; empty while that is open.
        """
        rows = _narrowed(self._rows[stage], lambda row: row.device == device)
        if stage == progress_pb2.STAGE_TRAIN:
            rows = _narrowed(rows, lambda row: row.variant == load.variant)
        guesses = []
        for age, row in enumerate(rows):
            before = Workload(row.photos, row.megapixels, row.iterations, row.variant)
            ratio = load.size(stage) / before.size(stage) if before.variant == load.variant else 1.0
            if stage == progress_pb2.STAGE_SFM:
                ratio = load.size(stage) / before.size(stage)
            weight = _RECENCY**age * math.exp(-2 * abs(math.log(ratio)))
            guesses.append((row.seconds * ratio, weight))
        return _weighted_median(guesses)

    def past_runs(self, variant: str, device: str) -> tuple[float, int]:
        """What trainings of just that variant took on just that kind of device.

        Args:
            variant: As ``variant_of`` names it.
            device: What the worker computes on.

        Returns:
            Their weighted median in seconds, and how many there were; 0 and 0 without any.
        """
        rows = [
            row
            for row in self._rows[progress_pb2.STAGE_TRAIN]
            if (row.variant, row.device) == (variant, device)
        ]
        median = _weighted_median([(row.seconds, _RECENCY**age) for age, row in enumerate(rows)])
        return median or 0.0, len(rows)

    def job_seconds(self, load: Workload, stages: Iterable[int] = STAGES) -> float | None:
        """What stages will take together; None while one of them is unknown."""
        times = [self.stage_seconds(stage, load) for stage in stages]
        return None if None in times else sum(seconds for seconds in times if seconds is not None)

    def remaining_seconds(self, load: Workload, tasks: Sequence[Task]) -> float | None:
        """What is left of a job's tasks; None while something of it is unknown."""
        total = 0.0
        for task in tasks:
            if task.finished_at is not None:
                continue
            expected = self.stage_seconds(task.stage, load, task.device)
            if task.started_at is not None and task.lease_token is not None:
                own = _own_estimate(task)
                elapsed = time.time() - task.started_at
                expected = own if own is not None else expected and max(1.0, expected - elapsed)
            if expected is None:
                return None
            total += expected
        return total


def _own_estimate(task: Task) -> float | None:
    """What the stage itself says."""
    if task.progress is None:
        return None
    progress = progress_pb2.StageProgress.FromString(task.progress)
    return progress.eta_seconds if progress.HasField("eta_seconds") else None


def _narrowed(rows: Sequence[StageTime], fits: object) -> Sequence[StageTime]:
    """The rows that fit, or all when none does."""
    assert callable(fits)
    return [row for row in rows if fits(row)] or rows


def _weighted_median(guesses: list[tuple[float, float]]) -> float | None:
    if not guesses:
        return None
    guesses.sort()
    half = sum(weight for _, weight in guesses) / 2
    for value, weight in guesses:
        half -= weight
        if half <= 0:
            return value
    return guesses[-1][0]
