"""The tables. Times are seconds since the epoch, UTC: the same on every database.

A change here needs a revision in ``migrations/versions``.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, UniqueConstraint
from sqlmodel import Field, SQLModel

# SQLite's integers have 64 bits anyway, and only a plain INTEGER may number its rows.
_Large = BigInteger().with_variant(Integer(), "sqlite")


class Line(SQLModel, table=True):
    """The line that jobs wait in; one row, locked by whoever changes who stands where."""

    __tablename__ = "line"

    id: int = Field(default=1, primary_key=True, sa_column_kwargs={"autoincrement": False})
    last_number: int = Field(default=0, sa_type=_Large)
    """Highest ``Job.queue_number`` given so far."""


class Job(SQLModel, table=True):
    """One reconstruction."""

    __tablename__ = "job"
    __table_args__ = (Index("job_by_state", "state", "queue_number"),)

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
    """A photo that is stored whole."""

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
