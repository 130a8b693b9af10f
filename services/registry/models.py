"""The tables. Times are seconds since the epoch, UTC: the same on every database.

A change here needs a revision in ``migrations/versions``.
"""

from __future__ import annotations

from enum import IntFlag

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, UniqueConstraint
from sqlmodel import Field, SQLModel

# SQLite's integers have 64 bits anyway, and only a plain INTEGER may number its rows.
_Large = BigInteger().with_variant(Integer(), "sqlite")


class Kind(IntFlag):
    """Kinds of files, each with a time to live of its own."""

    PHOTOS = 1
    """What was uploaded."""
    INTERMEDIATES = 2
    """The undistorted photos, the COLMAP model, checkpoints."""
    RESULTS = 4
    """The scene in all its formats, and the reports."""
    LOGS = 8
    """The job's log."""


class Line(SQLModel, table=True):
    """The line that jobs wait in; one row, locked by whoever changes who stands where."""

    __tablename__ = "line"

    id: int = Field(default=1, primary_key=True, sa_column_kwargs={"autoincrement": False})
    last_number: int = Field(default=0, sa_type=_Large)
    """Highest ``Job.queue_number`` given so far."""
    turn: int = Field(default=0, sa_type=_Large)
    """Highest ``Job.turn`` that has begun: what newcomers are put behind."""
    database_id: str = ""
    """Written into the artifact store too, so that each knows the other."""
    moved: bool = False
    """Whether somebody's place has changed since the waiting were told."""


class Job(SQLModel, table=True):
    """One reconstruction."""

    __tablename__ = "job"
    __table_args__ = (
        Index("job_by_state", "state", "queue_number"),
        Index("job_by_turn", "state", "rank", "turn", "queue_number"),
    )

    job_id: str = Field(primary_key=True, max_length=8)
    pub_key: str = Field(unique=True, max_length=10)
    request_id: str | None = Field(default=None, unique=True, max_length=64)
    state: int
    title: str = ""
    options: bytes = Field(default=b"", sa_column=Column(LargeBinary, nullable=False))
    """A serialised JobOptions."""
    resumable: bool = False
    hold: bool = False
    created_at: float
    touched_at: float
    """Last sign of life of its upload."""
    submitted_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    queue_number: int = Field(default=0, sa_type=_Large)
    """Place in the line of all jobs ever submitted."""
    owner: str = Field(default="", max_length=8, index=True)
    """``ApiKey.key_id`` of whoever made it; empty while the suite is open."""
    rank: int = 0
    """Minus the priority: so the whole order of the line ascends, as its index does."""
    turn: int = Field(default=0, sa_type=_Large)
    """Round in which it is its owner's turn; among equals the earlier number comes first."""
    shared: bool = True
    """Whether the share key opens the scene."""
    share_expires_at: float | None = None
    expired: int = 0
    """Kinds of files that are gone for their age: bits of ``Kind``."""
    trace: str = Field(default="", max_length=55)
    """The traceparent that its stages go on with."""
    told_position: int = 0
    """Place in the line that its watchers know of."""
    expected_seconds: float | None = None
    """What its processing was expected to take when it was submitted."""
    last_sequence: int = 0
    error: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))
    """A serialised ErrorDetail."""


class Task(SQLModel, table=True):
    """One stage of one job."""

    __tablename__ = "task"
    __table_args__ = (
        UniqueConstraint("job_id", "stage"),
        Index("task_by_state", "state", "stage"),
    )

    id: int | None = Field(default=None, primary_key=True)
    job_id: str = Field(foreign_key="job.job_id", index=True)
    stage: int
    state: int
    attempt: int = 0
    """Attempts begun; released ones do not count."""
    starts: int = 0
    """Leases ever given; names the output folder, so that none is used twice."""
    lease_token: str | None = Field(default=None, index=True)
    lease_expires_at: float | None = None
    not_before: float = 0.0
    worker_id: str = ""
    device: str = ""
    """What its worker computes on: ``cpu``, or the GPU's name."""
    started_at: float | None = None
    finished_at: float | None = None
    progress: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))
    """The newest StageProgress, serialised."""
    result: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))
    """A StageResult, serialised."""


class Event(SQLModel, table=True):
    """Something that happened to a job, numbered from 1 within it."""

    __tablename__ = "event"

    job_id: str = Field(primary_key=True, foreign_key="job.job_id")
    sequence: int = Field(primary_key=True)
    payload: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    """A JobEvent, serialised."""


class LogLine(SQLModel, table=True):
    """A line of a job's log, for its tail; the whole log is a file."""

    __tablename__ = "log_line"

    id: int | None = Field(default=None, primary_key=True, sa_type=_Large)
    job_id: str = Field(foreign_key="job.job_id", index=True)
    text: str


class Image(SQLModel, table=True):
    """A photo, or a photo's mask, that is stored whole."""

    __tablename__ = "image"

    job_id: str = Field(primary_key=True, foreign_key="job.job_id")
    filename: str = Field(primary_key=True, max_length=255)
    folded_name: str
    """The name as compared: photos must not differ by case alone."""
    size_bytes: int = Field(sa_type=_Large)
    sha256: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    width: int
    height: int


class Artifact(SQLModel, table=True):
    """A published file of a job."""

    __tablename__ = "artifact"

    job_id: str = Field(primary_key=True, foreign_key="job.job_id")
    name: str = Field(primary_key=True)
    """Path below the job's folder."""
    stage: int
    size_bytes: int = Field(sa_type=_Large)
    sha256: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    created_at: float


class ApiKey(SQLModel, table=True):
    """Somebody who may use the suite. The key itself is known to nobody but them."""

    __tablename__ = "api_key"

    key_id: str = Field(primary_key=True, max_length=8)
    name: str = Field(max_length=100)
    secret_hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    """SHA-256 of the secret, which is 256 random bits: nothing slower is needed."""
    scopes: str
    """Of ``keys.Scope``, separated by spaces."""
    max_waiting_jobs: int | None = None
    max_bytes: int | None = Field(default=None, sa_type=_Large)
    max_gpu_minutes: float | None = None
    """A day, UTC."""
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    last_used_at: float | None = None


class GpuUsage(SQLModel, table=True):
    """GPU time of an owner on a day."""

    __tablename__ = "gpu_usage"

    owner: str = Field(primary_key=True, max_length=8)
    day: str = Field(primary_key=True, max_length=10)
    """UTC, ISO 8601."""
    seconds: float = 0.0


class Worker(SQLModel, table=True):
    """A worker that has asked for work."""

    __tablename__ = "worker"

    worker_id: str = Field(primary_key=True, max_length=128)
    stages: str
    """Numbers of the stages it can do, separated by spaces."""
    device: str = ""
    training_device: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))
    """A serialised TrainingDevice: what it says of its speed."""
    first_seen_at: float
    last_seen_at: float = Field(index=True)


class ErrorLog(SQLModel, table=True):
    """An attempt that failed, also where a later one went well."""

    __tablename__ = "error_log"

    id: int | None = Field(default=None, primary_key=True, sa_type=_Large)
    job_id: str = Field(foreign_key="job.job_id", index=True)
    stage: int
    attempt: int
    worker_id: str
    created_at: float = Field(index=True)
    error: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    """A serialised ErrorDetail."""


class StageTime(SQLModel, table=True):
    """How long a stage took; estimates are made from these."""

    __tablename__ = "stage_time"

    id: int | None = Field(default=None, primary_key=True, sa_type=_Large)
    stage: int = Field(index=True)
    device: str
    photos: int
    megapixels: float
    """Of all photos together."""
    iterations: float
    """Of the training; 0 for other stages."""
    variant: str = ""
    """The preset and what was set beside it, or ``iterations`` where the person said how many."""
    seconds: float
    finished_at: float
